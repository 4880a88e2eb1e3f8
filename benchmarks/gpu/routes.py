"""The routes of `make gpu`, most important first, and how each becomes a process and figures."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.energy import EnergyMeter
from benchmarks.gpu.inputs import REAL, TOY, WARM_UP
from jobspec.models.devices import peak
from jobspec.spec import identity
from jobspec.spec.schema import DataSpec, JobSpec, ModelSpec, TrainSpec
from jobspec.storage.layout import JobPaths, RootPaths

REPO = Path(__file__).resolve().parents[2]
GPU_TESTS = ("tests/integration/test_gpu.py", "tests/worker/inference/test_engines.py")
BEST: dict[str, Any] = {"packing": True, "gradient_checkpointing": False}


class RouteError(Exception):
    """A route's process failed or ran out of time; the message ends with the end of its log."""


class Bench:
    """Where the routes work, how large they are, and how long the current one may take."""

    def __init__(self, directory: Path, *, toy: bool) -> None:
        self.dir = directory
        self.toy = toy
        self.size = TOY if toy else REAL
        self.energy = EnergyMeter()
        self.limit_s = 0.0

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What the inputs are. The first route that needs them makes them."""
        self.process("inputs", "-m", "benchmarks.gpu.inputs", str(self.dir), *self._toy_flag)
        return json.loads((self.dir / "facts.json").read_text())

    @property
    def _toy_flag(self) -> list[str]:
        return ["--toy"] if self.toy else []

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


def run_demo(bench: Bench) -> dict[str, Any]:
    """The README's first command: its first line and its judgement."""
    root = str(bench.dir / "demo")
    return read_demo(bench.process("demo", "-m", "worker.demo.run", "--root", root))


def read_demo(output: str) -> dict[str, Any]:
    """What the demo said of the machine, and of what the model learned."""
    said = [line.removeprefix("demo: ") for line in output.splitlines() if "demo: " in line]
    (scores,) = [line for line in said if "questions it was trained on" in line]
    return {"machine": said[0], "scores": scores}


def run_tests(bench: Bench) -> dict[str, Any]:
    """The tests marked `gpu`. Another torch may warn of other things, so warnings are no errors."""
    arguments = [
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-W",
        "default",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
    ]
    output = bench.process("tests", *arguments, *GPU_TESTS)
    lines = output.strip().splitlines()
    skips = [line.removeprefix("SKIPPED ") for line in lines if line.startswith("SKIPPED ")]
    return {"summary": lines[-1].strip("= "), "skips": [_short(line) for line in skips]}


def run_generation(bench: Bench) -> dict[str, Any]:
    out = bench.dir / "generation.json"
    _ = bench.facts
    bench.process("generation", "-m", "benchmarks.gpu.generation", str(bench.dir), str(out))
    result = json.loads(out.read_text())
    joules = bench.energy.joules(*result.pop("window"))
    return result | {"joules_per_token": joules / result["tokens"] if joules else None}


def train(
    bench: Bench, *, kind: str, name: str, compiled: bool = False, **settings: Any
) -> dict[str, Any]:
    """This project's train phase itself, on an attempt's directory made by hand."""
    facts = bench.facts
    attempt = _make_attempt(bench, name, kind, settings)
    module = "benchmarks.gpu.compiled" if compiled else "worker.training.train"
    bench.process(name, "-m", module, str(attempt.dir), rank=True)
    rows = [json.loads(line) for line in attempt.metrics.read_text().splitlines()]
    steps = [
        {
            "step_s": row["step_s"],
            "tokens": row["tokens_per_second"] * row["step_s"],
            "loss": row["loss"],
            "ended_at": datetime.fromisoformat(row["time"]).timestamp(),
        }
        for row in rows
        if row.get("loss") is not None
    ]
    summary = json.loads(attempt.done("train").read_text())
    memory = summary.get("memory") or {}
    engine = summary["engine"]
    shutil.rmtree(bench.dir / name)  # its weights: a memory disk would not hold every route's
    return _speed(bench, kind, steps, facts) | {
        "peak_gib": summary["peak_memory_gib"],
        "predicted_gib": memory.get("predicted_gib"),
        "attention": engine["attention"],
        "kernels": engine["kernels"],
    }


def _make_attempt(bench: Bench, name: str, kind: str, settings: dict[str, Any]) -> Any:
    spec = JobSpec(
        name="gpu",
        model=ModelSpec(name=str(bench.dir / "model"), dtype=bench.size.dtype),  # pyright: ignore[reportArgumentType]
        data=DataSpec(path=str(bench.dir / kind), eval_split_ratio=0.0),
        train=TrainSpec(
            num_train_epochs=1.0,
            max_length=bench.size.max_length,
            global_batch_size=bench.size.rows[kind],
            checkpoint_interval_s=1e6,
            **settings,
        ),
        eval=None,
    )
    data = identity.canonical(spec)
    root = RootPaths(bench.dir / name)
    attempt = root.job(identity.job_id(spec.name, data)).attempt(1)
    attempt.dir.mkdir(parents=True)
    JobPaths(attempt.job_dir).spec.write_bytes(data)
    prepared = root.prepared / "rows"
    prepared.mkdir(parents=True)
    (prepared / "train").symlink_to(bench.dir / kind)
    done = {
        "dir": str(prepared.relative_to(root.root)),
        "rows_eval": 0,
        "inference_chat_template": "{{ messages }}",
        "eos_token_ids": [0],
    }
    attempt.done("prepare").write_text(json.dumps(done))
    return attempt


def train_by_trl(bench: Bench, *, kind: str, name: str) -> dict[str, Any]:
    facts = bench.facts
    out = bench.dir / f"{name}.json"
    # In one process TRL needs no rendezvous, but DeepSpeed does, which only a GPU's run uses.
    arguments = ["-m", "benchmarks.gpu.trl_route", str(bench.dir), kind, str(out)]
    bench.process(name, *arguments, rank=not bench.toy)
    result = json.loads(out.read_text())
    steps, before = result["steps"], 0.0
    for step in steps:
        step["tokens"] = step["num_tokens"] - before
        before = step["num_tokens"]
    kernels = "liger" if result["liger"] else None
    return _speed(bench, kind, steps, facts) | {
        "peak_gib": result["peak_gib"],
        "attention": "sdpa",
        "kernels": kernels,
    }


def _speed(bench: Bench, kind: str, steps: list[dict[str, Any]], facts: Any) -> dict[str, Any]:
    """Figures over the steps that count. Work is shared among steps by their tokens."""
    counted = steps[WARM_UP:]
    seconds = sum(step["step_s"] for step in counted)
    tokens = sum(step["tokens"] for step in counted)
    rows = facts["rows"][kind]
    device_peak = peak(facts["device"])
    work = rows["flops"] * tokens / rows["tokens"]
    joules = bench.energy.joules(steps[WARM_UP - 1]["ended_at"], steps[-1]["ended_at"])
    return {
        "steps": len(counted),
        "tokens_per_second": tokens / seconds,
        "step_s": seconds / len(counted),
        "mfu": work / seconds / device_peak if device_peak else None,
        "losses": [step["loss"] for step in (steps[0], steps[-1])],
        "joules_per_token": joules / tokens if joules else None,
    }


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
    return _short(" | ".join([*errors[-1:], *lines[-3:]]) or "no output", 700)


def _short(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _train_route(title: str, limit_s: float, kind: str, name: str, **more: Any) -> Route:
    return Route(title, limit_s, functools.partial(train, kind=kind, name=name, **more))


def _trl_route(title: str, limit_s: float, kind: str, name: str) -> Route:
    return Route(title, limit_s, functools.partial(train_by_trl, kind=kind, name=name))


def _routes() -> dict[str, Route]:
    checkpointed = {"packing": True}
    return {
        "demo": Route("demo", 150, run_demo),
        "full-defaults": _train_route("full rows, defaults", 120, "full", "full-defaults"),
        "full-best": _train_route("full rows, best settings", 90, "full", "full-best", **BEST),
        "full-trl": _trl_route("full rows, TRL tuned", 90, "full", "full-trl"),
        "mixed-best": _train_route("mixed rows, best settings", 90, "mixed", "mixed-best", **BEST),
        "mixed-defaults": _train_route("mixed rows, defaults", 90, "mixed", "mixed-defaults"),
        "mixed-trl": _trl_route("mixed rows, TRL tuned", 110, "mixed", "mixed-trl"),
        "generation": Route("generation", 75, run_generation),
        "tests": Route("tests marked `gpu`", 120, run_tests),
        "full-compiled": _train_route(
            "full rows, best settings, compiled layers",
            *(110, "full", "full-compiled"), compiled=True, **BEST,
        ),
        "full-no-liger": _train_route(
            "full rows, best settings without Liger",
            *(90, "full", "full-no-liger"), use_liger_kernel=False, **BEST,
        ),
        "mixed-packing": _train_route(
            "mixed rows, packing, gradient checkpointing",
            *(90, "mixed", "mixed-packing"), **checkpointed,
        ),
        "mixed-compiled": _train_route(
            "mixed rows, best settings, compiled layers",
            *(110, "mixed", "mixed-compiled"), compiled=True, **BEST,
        ),
    }  # fmt: skip


ROUTES = _routes()
