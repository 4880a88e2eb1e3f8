"""Attempts of one job, driven rank by rank: what the tests of stops and resumes share."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobspec.queue.queue import Queue
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import AttemptPaths, JobPaths
from tests.support.paths import REPOSITORY
from tests.support.workers import losses, rows
from worker import phases
from worker.checkpoints import directories
from worker.host.devices import WorkerDevices
from worker.launch import command
from worker.launch.environment import phase_environment
from worker.launch.plan import plan_batch
from worker.process import rank_launcher
from worker.supervisor.carry_over import carry_over

SAVE_EVERY = 3  # steps


@dataclass(frozen=True)
class Strike:
    """`signal` to ranks `to`, from rank `rank`, at its `nth` call of a point (see forge.POINTS)."""

    point: str
    signal: str
    rank: int = 0
    nth: int = 1
    to: tuple[int, ...] = (0,)


class Forge:
    """A process that forks ranks (rank_forks.py)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, request: dict[str, Any]) -> list[int]:
        """Exit codes of the ranks of one phase, once all have ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def forge(tmp: Path, script: str = "rank_forks.py") -> Iterator[Forge]:
    """A forge, or what `script` makes of one; its ranks end with it."""
    env = phase_environment(os.environ, root=tmp, tmp=tmp, devices=WorkerDevices(2), ranks=2)
    command = [sys.executable, str(Path(__file__).with_name(script))]
    with subprocess.Popen(
        command,
        env={**env, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Forge(process)
        finally:
            process.kill()


@dataclass
class Run:
    """One job whose attempts are run by hand. `strikes` and `codes` are kept for a failure.

    `plain`: train as DeepSpeed does by itself, with groups and gradients of all weights at once.
    `nodes`: on which the ranks believe to be.
    """

    forge: Forge
    job: JobPaths
    spec: JobSpec
    save_every: int = SAVE_EVERY
    number: int = 0
    plain: bool = False
    nodes: int = 1
    emulates_float8: bool = False
    history: list[Any] = field(default_factory=list)

    @property
    def attempt(self) -> AttemptPaths:
        return self.job.attempt(self.number)

    def go(self, *strikes: Strike, world: int = 2, convert: Sequence[Strike] = ()) -> list[int]:
        """The next attempt, as a worker makes it: inherit, prepare, convert, train.

        Returns:
            The exit codes of the training's ranks, or of a conversion that did not finish.
        """
        self.number += 1
        self.attempt.dir.mkdir(parents=True)
        said = carry_over(self.job, self.attempt, self.job.dir.parent.parent)
        plan = plan_batch(self.spec, WorkerDevices(world))
        facts = {"world_size": plan.world, "per_device_train_batch_size": plan.micro}
        self.attempt.manifest.write_text(json.dumps({"plan": facts}))
        if not self.attempt.done("prepare").exists():
            prepare = command.phase_command(phases.named("prepare").module, self.attempt.dir)
            subprocess.run(prepare, cwd=REPOSITORY, check=True)
        if directories.needs_conversion(self.attempt, plan.world):
            codes = self.phase("convert", 1, *convert)
            if codes != [0]:
                return codes
        codes = self.phase("train", plan.world, *strikes)
        self.history.append((said, [vars(strike) for strike in strikes], codes))
        return codes

    def phase(self, name: str, ranks: int, *strikes: Strike) -> list[int]:
        port = free_port()
        return self.forge.run(
            {
                "phase": name,
                "attempt": str(self.attempt.dir),
                "log": str(self.attempt.log(name)),
                "ranks": ranks,
                "env": [rank_env(rank, ranks, port, self.nodes) for rank in range(ranks)],
                "save_every": self.save_every,
                "plain": self.plain,
                "emulates_float8": self.emulates_float8,
                "strikes": [vars(strike) for strike in strikes],
            }
        )

    @property
    def losses(self) -> dict[int, float]:
        return losses(self.job.dir)

    @property
    def eval_losses(self) -> dict[int, float]:
        """Held-out loss by step; where attempts overlap the later one's."""
        found: dict[int, float] = {}
        for number in range(1, self.number + 1):
            seen = rows(self.job.attempt(number).dir)
            found |= {row["step"]: row["eval_loss"] for row in seen if "eval_loss" in row}
        return found

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.attempt.done("train").read_text())


def start(forge: Forge, queue: Queue, spec: JobSpec, save_every: int = SAVE_EVERY) -> Run:
    """A job, no attempt begun."""
    return Run(forge, queue.enqueue(spec).paths, spec, save_every)


def rank_env(rank: int, ranks: int, port: int, nodes: int = 1) -> dict[str, str]:
    """What the rank launcher adds to a rank's environment."""
    wanted = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    here = max(1, ranks // nodes)
    span = rank_launcher.RankRange(first=rank - rank % here, world=ranks)
    made = rank_launcher.rank_environment(rank % here, here, port, span)
    return {name: made[name] for name in wanted}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
