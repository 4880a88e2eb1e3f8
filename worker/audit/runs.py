"""Runs an audited spec through the real queue and workers, and kills them where it is told."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from jobspec.errors import JobspecError
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import read_end
from jobspec.records.audit import Kill
from jobspec.records.base import State
from jobspec.records.reports import Resumed, TrainReport
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from jobspec.storage.layout import CheckpointPaths, JobPaths, RootPaths
from worker.audit.kills import AuditPaths, Orders
from worker.checkpoints import integrity

_LOOK_EVERY_S = 0.005
_LONGEST_S = 1800.0  # one attempt of an audited run takes seconds

Between = Callable[[AuditPaths, JobPaths], None]


def say(line: str) -> None:
    """Tell the user, on stderr, what the audit does."""
    sys.stderr.write(f"audit: {line}\n")
    sys.stderr.flush()


class AuditedRun:
    """One job in a root of its own, below `directory`.

    Args:
        like: a finished run of the same spec; its cache with the prepared rows is copied.
    """

    def __init__(
        self,
        directory: Path,
        spec: JobSpec,
        *,
        ranks: int,
        save_every: int,
        like: AuditedRun | None = None,
    ) -> None:
        directory.mkdir()
        self.paths = AuditPaths(directory)
        self._ranks = ranks
        self._save_every = save_every
        self._queue = Queue.create(self.paths.root, heartbeat_s=2.0, lease_s=30.0)
        if like is not None:
            own, other = (RootPaths(each.root).cache for each in (self.paths, like.paths))
            shutil.copytree(other, own, dirs_exist_ok=True)
        self.job = self._queue.enqueue(spec).paths
        self.kills: list[Kill] = []

    def go(self, kills: Sequence[Kill] = (), *, between: Between | None = None) -> None:
        """Run the job to its end, killed at each of `kills` and resumed.

        Args:
            between: called after each kill, before the next worker starts. Tests damage a
                checkpoint there, to see that the audit finds it.

        Raises:
            JobspecError: the job failed, or a process did not get to its kill.
        """
        for kill in kills:
            say(f"is killed {kill.point}, step {kill.step}, rank {kill.rank}")
            with self._worker(kill) as worker:
                reached = self._wait_for_kill(worker)
            if not reached:
                self._refuse(f"ended before it was killed {kill.point}, at step {kill.step}")
            (job,) = self._queue.jobs(State.RUNNING)
            assert job.worker is not None, "a running job's entry names its worker"
            self.kills.append(msgspec.structs.replace(kill, resumed_from=self._newest_step()))
            self._queue.reap(worker=job.worker, now=True)
            if between is not None:
                between(self.paths, self.job)
        with self._worker(None) as worker:
            worker.wait(_LONGEST_S)
        if not self._queue.jobs(State.SUCCEEDED):
            self._refuse("failed")

    @property
    def attempts(self) -> range:
        """The numbers of its attempts."""
        return range(1, 2 + len(self.kills))

    @property
    def report(self) -> TrainReport:
        """What the training reported at its end."""
        found = records.read(self.job.attempt(self.attempts[-1]).done("train"), TrainReport)
        assert found is not None, "a succeeded job has it"
        return found

    @property
    def resumed_from(self) -> Resumed | None:
        return self.report.resumed_from

    def _newest_step(self) -> int | None:
        """The step of the newest complete checkpoint that any attempt has."""
        found = [
            int(path.name.removeprefix("step-"))
            for number in range(1, 2 + len(self.kills))
            for path in self.job.attempt(number).checkpoints.glob("step-*")
            if integrity.read_manifest(CheckpointPaths(path)) is not None
        ]
        return max(found, default=None)

    @contextmanager
    def _worker(self, kill: Kill | None) -> Iterator[subprocess.Popen[bytes]]:
        """A worker process, in a session of its own; at the end all its processes are killed."""
        self.paths.reached.unlink(missing_ok=True)
        fs.replace(
            self.paths.orders,
            records.encode(Orders(save_every=self._save_every, kill=kill)),
        )
        command = [sys.executable, "-m", "worker.audit.observed_worker", "--drain"]
        command += ["--root", str(self.paths.root), "--devices", str(self._ranks)]
        with self.paths.worker_log.open("ab") as log:
            worker = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield worker
        finally:
            kill_tree(worker)

    def _wait_for_kill(self, worker: subprocess.Popen[bytes]) -> bool:
        """Whether the training got to the point at which it waits; False if the worker ended."""
        deadline = time.monotonic() + _LONGEST_S
        while not self.paths.reached.exists():
            if worker.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_EVERY_S)
        return True

    def _refuse(self, what: str) -> None:
        """Raise the error of the last attempt."""
        numbers = [int(path.name) for path in self.job.attempts.glob("*")]
        attempt = self.job.attempt(max(numbers, default=1))
        end = read_end(attempt)
        reason = f": {end.message}" if end is not None and end.message else ""
        log = attempt.log(end.phase) if end is not None and end.phase else self.paths.worker_log
        tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        raise JobspecError(
            "\n".join([f"the audited training {what}{reason}", *tail]),
            hint="`jobspec run SPEC` shows whether the spec itself trains on this machine",
        )


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` a process and everything it started, itself first."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        everyone = [parent, *parent.children(recursive=True)]
        for each in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        psutil.wait_procs(everyone[1:], timeout=30)
    process.wait()
