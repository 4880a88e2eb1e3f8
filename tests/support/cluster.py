"""What the tests of the cluster share: a root, its site's settings, submission, what is seen."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import State
from jobspec.spec.schema import JobSpec
from tests.support.models import hurry, patient_model
from tests.support.paths import REPOSITORY
from tests.support.slurm import Slurm
from tests.support.specs import tiny_spec, with_model
from tests.support.waiting import until
from tests.support.workers import rows

PATIENCE_S = 400.0  # of a machine that has much else to do


@dataclass
class Cluster:
    """A root on the two nodes' shared disk, and the person who works with it."""

    slurm: Slurm
    base: Path
    tiny: Path
    apptainer: str
    sif: str

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def home(self) -> Path:
        """The person's home, in which nothing may be written."""
        return self.base / "home"

    @property
    def site(self) -> Path:
        return self.base / "slurm" / "site.env"

    @property
    def models(self) -> Path:
        return self.base / "models"

    @property
    def queue(self) -> Queue:
        return Queue(self.root)

    def setup(self, *options: str) -> None:
        """As a user does it, but with quick heartbeats: workers are killed here."""
        Queue.create(self.root, heartbeat_s=2.0, lease_s=120.0)
        settings = ["--root", str(self.root), "--sif", self.sif, "--apptainer", self.apptainer]
        self.models.mkdir()
        settings += [
            "--binds",
            f"{self.tiny} {self.models}",
            "--worker-options",
            "--drain --devices 1",
        ]
        self.jobspec("setup", *settings, "--node-tmp", str(self.slurm.node_tmp), *options)

    def jobspec(self, *args: str, code: int = 0) -> str:
        """Run the real command on the "login node"; its stdout, or what it refused with."""
        env = self.slurm.env | {"PYTHONPATH": str(REPOSITORY), "JOBSPEC_SITE_ENV": str(self.site)}
        env |= {"JOBSPEC_ROOT": str(self.root)}
        command = [sys.executable, "-m", "jobspec.cli", *args]
        done = subprocess.run(
            command, env=env, cwd=self.base, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def enqueue(self, spec: JobSpec) -> Job:
        return self.queue.enqueue(spec)

    def enqueue_patient(self, name: str, *, pace_s: float, **train: Any) -> Job:
        """A job that lasts until `hurry`, or for its steps, two forwards of `pace_s` each."""
        model = patient_model(self.tiny, self.models, pace_s)
        spec = tiny_spec(self.tiny, name=name, **train)
        return self.enqueue(with_model(spec, model))

    def hurry(self) -> None:
        hurry(self.models / "patient")

    def sbatch(self, array: str, *options: str) -> str:
        """Run `sbatch --array=… slurm/worker.sbatch` on the repository's script; the job's id."""
        log = self.root / "slurm" / "%A_%a.log"
        log.parent.mkdir(exist_ok=True)
        self.home.mkdir(exist_ok=True)
        command = ["env", f"HOME={self.home}", "sbatch", "--parsable", f"--array={array}"]
        command += [f"--output={log}", *options]
        return self.slurm.call(*command, str(REPOSITORY / "slurm" / "worker.sbatch"), cwd=self.base)

    def log(self, element: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.root / "slurm" / f"{element}.log").read_text()
        return ""

    def workers(self) -> list[int]:
        """PIDs of this root's workers; in a command line a NUL ends each word."""
        return processes_with(f"bin/jobspec-worker\0--root\0{self.root}\0")

    def states(self) -> dict[str, str]:
        return {job.id: job.state.value for job in self.queue.jobs()}

    def wait_until(self, condition: Any, what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Wait; where it takes too long the failure shows the logs."""
        try:
            return until(condition, what, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.transcript()}") from None

    def wait_for_steps(self, job: Job, attempt: int, count: int = 2) -> None:
        """Until an attempt has trained some steps."""
        where = job.paths.attempt(attempt).dir
        self.wait_until(
            lambda: sum("loss" in row for row in rows(where)) >= count,
            f"{count} steps of attempt {attempt}",
        )

    def wait_for_success(self) -> None:
        """Until every job has succeeded, or no worker is left that works on them."""

        def over() -> bool:
            return ended_well(self.queue) or not self.slurm.call("squeue", "--noheader")

        self.wait_until(over, "the jobs' end")
        assert ended_well(self.queue), self.transcript()

    def wait_for_end(self, *elements: str) -> None:
        """Until Slurm has no process of these elements left."""
        for element in elements:
            self.wait_until(
                lambda e=element: self.slurm.state_of(e) in ("COMPLETED", "CANCELLED", "FAILED"),
                f"the end of {element}",
            )

    def transcript(self) -> str:
        """Everything printed so far, for the message of a failed test."""
        logs = sorted((self.root / "slurm").glob("*.log"))
        parts = [f"== {log.name}\n{log.read_text()[-3000:]}" for log in logs]
        queue = self.slurm.call("squeue", "--all", "--states=all", "--array")
        return "\n".join([str(self.states()), queue, *parts])

    def end(self) -> None:
        """Cancel what is left, and wait for it, so that the next test finds free nodes."""
        self.slurm.call("scancel", f"--user={os.environ.get('USER') or 'root'}")
        until(lambda: not self.slurm.call("squeue", "--noheader"), "an empty cluster", PATIENCE_S)


def score_spec(tiny: Path, name: str) -> JobSpec:
    """A model scored as it is."""
    spec = tiny_spec(tiny, name=name, evaluate=True)
    return msgspec.structs.replace(spec, train=None, data=None)


def resumed_from(job: Job, attempt: int) -> dict[str, Any]:
    """What an attempt's first row says of where it took up."""
    first = next(iter(rows(job.paths.attempt(attempt).dir)), {})
    return first.get("resumed_from") or {}


def reason(job: Job, attempt: int) -> str | None:
    end = records.read(job.paths.attempt(attempt).end, End)
    return None if end is None else end.reason.value


def ended_well(queue: Queue) -> bool:
    jobs = queue.jobs()
    return bool(jobs) and all(job.state is State.SUCCEEDED for job in jobs)


def processes_with(word: str) -> list[int]:
    """PIDs of processes that have a word in their command line."""
    return [pid for pid, line in _command_lines() if word in line and pid != os.getpid()]


def depth(pid: int) -> int:
    """How many namespaces of processes one is in, this one's included: proc_pid_status(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return len(re.findall(r"^NSpid:(.*)", status, re.MULTILINE)[0].split())


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().decode(errors="replace")
