"""Where the routes of `make gpu` work: their inputs, and how each becomes a process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.energy import EnergyMeter
from benchmarks.gpu.inputs import REAL, TOY

REPO = Path(__file__).resolve().parents[2]


class RouteError(Exception):
    """A route's process failed or ran out of time; the message ends with the end of its log."""


@dataclass(frozen=True)
class Inputs:
    """A model and its rows, and what `benchmarks.gpu.inputs` says of them."""

    dir: Path
    facts: dict[str, Any]


class Bench:
    """Where the routes work, how large they are, and how long the current one may take.

    Attributes:
        profile: whether our training routes run under the profiler.
    """

    def __init__(self, directory: Path, *, toy: bool, profile: bool = False) -> None:
        self.dir = directory
        self.toy = toy
        self.profile = profile
        self.size = TOY if toy else REAL
        self.energy = EnergyMeter()
        self.limit_s = 0.0

    def inputs(self, depth: str = "part") -> Inputs:
        """The model, `part` of its layers or the `whole`, and rows; the first route makes them."""
        directory = self.dir / depth
        if not (directory / "facts.json").exists():
            directory.mkdir(exist_ok=True)
            options = ["--toy"] * self.toy + ["--whole"] * (depth == "whole")
            arguments = ("-m", "benchmarks.gpu.inputs", str(directory), *options)
            self.process(f"inputs-{depth}", *arguments)
        return Inputs(directory, json.loads((directory / "facts.json").read_text()))

    def process(self, name: str, *arguments: str, rank: bool = False) -> str:
        """Run Python with these arguments in a process group of its own. Returns its output.

        Args:
            rank: it trains, as the only rank.

        Raises:
            RouteError: it failed, or took longer than the route may.
        """
        log = self.dir / f"{name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=REPO,
                env=self._environment() | (_one_rank() if rank else {}),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(self.limit_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        output = log.read_text(errors="replace")
        if code is None:
            raise RouteError(f"stopped after {self.limit_s:.0f} s; {_tail(output)}")
        if code:
            raise RouteError(f"exit code {code}; {_tail(output)}")
        return output

    def _environment(self) -> dict[str, str]:
        """Offline, with this checkout first on the path."""
        caches = self.dir / "caches"
        env = dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        }
        if self.toy:
            env |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        return env


@dataclass(frozen=True)
class Route:
    """One thing that is measured. `title` is its row on the page."""

    title: str
    limit_s: float
    run: Callable[[Bench], dict[str, Any]]


def shorten(text: str, most: int = 160) -> str:
    """The text, cut at its end."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _one_rank() -> dict[str, str]:
    """What torch's rendezvous reads."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _tail(output: str) -> str:
    """The last lines of a log, in one line: an exception's message first."""
    lines = [line.strip() for line in output.strip().splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return shorten(" | ".join([*errors[-1:], *lines[-3:]]) or "no output", 700)
