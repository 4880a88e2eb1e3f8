"""What every phase process shares: its spec, its files, its way of ending.

A phase is `python -m worker.<phase> ATTEMPT_DIR`. It reports progress, appends metric rows, and
ends by one of the exit codes below; the loop reads nothing else from it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import DiskFull, JobspecError, SpecError
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.attempt import PhaseError, Progress
from jobspec.records.base import Reason, Record
from jobspec.spec import identity, parsing
from jobspec.spec import schema as specs
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, JobPaths, RootPaths
from worker.host.disk import can_write

_PROGRESS_EVERY_S = 2.0
_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122")
_MEMORY_WORDS = ("can't allocate memory", "CUDA out of memory", "not enough memory")
_FLUSH_EVERY_S = 1.0


class Phase:
    """One phase of one attempt: where it reads, where it writes, how it reports.

    Only the first rank of a phase reports (`reports=False` elsewhere).
    """

    def __init__(self, name: str, attempt_dir: str | Path, *, reports: bool = True) -> None:
        self.name = name
        self.paths = AttemptPaths(Path(attempt_dir).absolute())
        self.job = JobPaths(self.paths.job_dir)
        self.root = RootPaths(self.job.dir.parent.parent)
        self.reports = reports
        self._started_at = records.utc_now()
        self._started = time.monotonic()
        self._last_progress = float("-inf")
        self._progress_started: float | None = None
        self._done_at_start = 0.0
        self._seq: int | None = None
        self._buffer = bytearray()
        self._last_flush = float("-inf")

    @cached_property
    def spec(self) -> specs.JobSpec:
        """The job's spec, its bytes checked against the job's id. Raises SpecError."""
        data = self.job.spec.read_bytes()
        if not self.job.job.endswith(f"-{identity.digest(data)}"):
            raise SpecError(
                "its bytes do not answer to the job's id: it was edited after enqueue",
                file=self.job.spec,
                hint="specs are immutable: enqueue a changed copy as a job of its own",
            )
        return parsing.decode(data, file=self.job.spec)

    @property
    def elapsed_s(self) -> float:
        """Seconds since this phase process built its Phase."""
        return time.monotonic() - self._started

    def progress(self, done: float, total: float, unit: str, **metrics: float | None) -> None:
        """Say how far the phase has come; written at most every two seconds, and at the end."""
        if not self.reports:
            return
        now = time.monotonic()
        if self._progress_started is None:
            self._progress_started, self._done_at_start = now, done
        if now - self._last_progress < _PROGRESS_EVERY_S and done < total:
            return
        self._last_progress = now
        advanced = done - self._done_at_start
        rate = advanced / (now - self._progress_started) if advanced > 0 else None
        report = Progress(
            phase=self.name,
            done=done,
            total=total,
            unit=unit,
            started_at=self._started_at,
            updated_at=records.utc_now(),
            eta_s=(total - done) / rate if rate else None,
            metrics=metrics,
        )
        fs.replace(self.paths.progress, records.encode(report))

    def metric(self, **values: Any) -> None:
        """Add one row to `metrics.jsonl`. Rows are written together, once a second at most."""
        if not self.reports:
            return
        if self._seq is None:
            self._seq = _rows(self.paths.metrics)
        row = {
            "attempt": self.paths.number,
            "seq": self._seq,
            "time": records.utc_now(),
            "phase": self.name,
            **values,
        }
        self._seq += 1
        self._buffer += msgspec.json.encode(row) + b"\n"
        if time.monotonic() - self._last_flush >= _FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write the rows held back so far."""
        if self._buffer:
            fs.append(self.paths.metrics, bytes(self._buffer))
            self._buffer.clear()
        self._last_flush = time.monotonic()

    def finish(self, report: Record | dict[str, Any]) -> None:
        """Publish the phase's report. From now on the phase is finished and is not run again."""
        self.flush()
        fs.publish(self.paths.done(self.name), records.encode(report))  # type: ignore[arg-type] - dictionaries until training and evaluation have records

    def read_done(self, phase: str) -> dict[str, Any]:
        """The report that an earlier phase of this attempt published."""
        return msgspec.json.decode(self.paths.done(phase).read_bytes())

    def read_report(self, phase: str, kind: type[records.R]) -> records.R:
        """The report that an earlier phase of this attempt published."""
        return msgspec.json.decode(self.paths.done(phase).read_bytes(), type=kind)

    def fail(
        self, kind: Reason, message: str, *, hint: str | None = None, step: int | None = None
    ) -> None:
        """Leave word of why this phase gives up."""
        error = PhaseError(phase=self.name, kind=kind, message=message, hint=hint, step=step)
        fs.replace(self.paths.error, records.encode(error))


def run(name: str, body: Callable[[Phase], int | None]) -> None:
    """A phase's `main`: parse the one argument, run `body`, exit by the codes of this module."""
    parser = argparse.ArgumentParser(prog=f"python -m worker.{name}")
    parser.add_argument("attempt_dir", type=Path)
    rank = int(os.environ.get("RANK", "0"))
    phase = Phase(name, parser.parse_args().attempt_dir, reports=rank == 0)
    # Until a phase sets handlers of its own, a stop needs no more than leaving: what is finished is
    # on disk already, and an interrupted native call must not hold the process.
    for sig in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(sig, lambda signum, frame: os._exit(exit_codes.STOPPED))
    sys.exit(guard(phase, body))


def guard(phase: Phase, body: Callable[[Phase], int | None]) -> int:
    """Run `body`; turn what it raises into error.json and an exit code."""
    try:
        return body(phase) or exit_codes.DONE
    except Exception as error:
        kind = classify(error)
        if kind is None and not can_write(phase.paths.dir, size=1 << 20):
            kind = Reason.DISK  # whatever was said, this is what stood behind it
        with contextlib.suppress(OSError, DiskFull):
            _leave_word(phase, error, kind)
        codes = {
            None: exit_codes.UNEXPLAINED,
            Reason.DISK: exit_codes.DISK_FULL,
            Reason.OOM: exit_codes.OUT_OF_MEMORY,
        }
        return codes.get(kind, exit_codes.REFUSED)


def _leave_word(phase: Phase, error: Exception, kind: Reason | None) -> None:
    """Say in the log, and in error.json if the class is known, why the phase gives up."""
    known = isinstance(error, JobspecError)
    message = str(error) if known else _first_line(error)
    hint = getattr(error, "hint", None)
    if not known:
        traceback.print_exc()
    sys.stderr.write(f"{phase.name}: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    if kind is not None:
        phase.fail(kind, message, hint=hint, step=getattr(error, "step", None))
    phase.flush()


def classify(error: BaseException) -> Reason | None:
    """The loss class an exception belongs to; None where only the loop can judge."""
    if isinstance(error, DiskFull):
        return Reason.DISK
    if isinstance(error, JobspecError):
        return Reason.FAILED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Reason.DISK
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Reason.OOM
    # Libraries that write or allocate in C++ say so in words alone.
    said = str(error)
    if any(words in said for words in _FULL_WORDS):
        return Reason.DISK
    return Reason.OOM if any(words in said for words in _MEMORY_WORDS) else None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


def _rows(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
