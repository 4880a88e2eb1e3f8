"""What every phase process shares: its spec, its files, its reports and its exit codes.

A phase is run as `python -m MODULE ATTEMPT_DIR` (`worker/phases.py`). It reports progress, appends
metric rows, and exits with one of `exit_codes`. The supervisor reads nothing else from it.
"""

from __future__ import annotations

import argparse
import contextlib
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
from jobspec.records import exit_codes, metric_rows
from jobspec.records.attempt import PhaseError, Progress
from jobspec.records.base import R, Reason, Record
from jobspec.records.metric_rows import MetricRow, RowOrigin
from jobspec.records.phases import PhaseInfo
from jobspec.spec import identity, parsing
from jobspec.spec import schema as specs
from jobspec.storage import fs
from jobspec.storage.disk_errors import FULL
from jobspec.storage.layout import AttemptPaths, JobPaths, RootPaths
from jobspec.storage.patience import TRANSIENT
from worker.host.disk import write_error

_PROGRESS_EVERY_S = 2.0
_LINE_EVERY_S = 10.0
_DISK_FULL_MESSAGES = (
    "No space left on device",
    "Disk quota exceeded",
    "os error 28",
    "os error 122",
    "Read-only file system",
    "os error 30",
)
_FILESYSTEM_MESSAGES = (
    *("Stale file handle", "os error 116", "Input/output error", "os error 5)"),
    *("Transport endpoint is not connected", "No locks available"),
)
_OUT_OF_MEMORY_MESSAGES = ("can't allocate memory", "CUDA out of memory", "not enough memory")
# What gloo and NCCL report on a rank whose peer has ended.
_LOST_PEER_MESSAGES = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "gloo/transport",
    "NCCL error",
    "remote process exited",
    "Timed out waiting",
)
_PERMANENT_ERRORS = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    NotImplementedError,
    AssertionError,
)
_PERMANENT_MESSAGES = (
    "size mismatch",
    "must match the size",
    "shapes cannot be multiplied",
    "out of range",
    "expected scalar type",
    "Expected all tensors",
    "is invalid for input of size",
    "not implemented for",
)
_FLUSH_EVERY_S = 1.0


class Phase:
    """One phase of one attempt: its files and its reports.

    Only the first rank of a phase reports (`reports=False` elsewhere).
    """

    def __init__(
        self, info: PhaseInfo[Any], attempt_dir: str | Path, *, reports: bool = True
    ) -> None:
        self.info = info
        self.name = info.name
        self.paths = AttemptPaths(Path(attempt_dir).absolute())
        self.job = JobPaths(self.paths.job_dir)
        self.root = RootPaths(self.job.dir.parent.parent)
        self.reports = reports
        self._started_at = records.utc_now()
        self._started = time.monotonic()
        self._last_progress = self._last_line = self._done_in_log = float("-inf")
        self._progress_started: float | None = None
        self._done_at_start = 0.0
        self._seq: int | None = None
        self._buffer = bytearray()
        self._last_flush = float("-inf")

    @cached_property
    def spec(self) -> specs.JobSpec:
        """The job's spec. Raises SpecError if its bytes do not match the job's id."""
        data = fs.read(self.job.spec)
        if not self.job.job.endswith(f"-{identity.digest(data)}"):
            raise SpecError(
                "its content does not match the job's id: it was edited after enqueue",
                file=self.job.spec,
                hint="specs are immutable: enqueue a changed copy as a new job",
            )
        return parsing.decode(data, file=self.job.spec)

    @property
    def elapsed_s(self) -> float:
        """Seconds since this phase process built its Phase."""
        return time.monotonic() - self._started

    def progress(
        self,
        done: float,
        total: float,
        unit: str,
        *,
        eta_s: float | None = None,
        **metrics: float | None,
    ) -> None:
        """Report progress. It is written at most every two seconds, and at the end.

        The log gets a line at most every ten seconds, and at the end.

        Args:
            eta_s: the seconds that are left, if the phase can tell; else the mean speed tells.
        """
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
            eta_s=(total - done) / rate if eta_s is None and rate else eta_s,
            metrics=metrics,
        )
        fs.replace(self.paths.progress, records.encode(report))
        if now - self._last_line >= _LINE_EVERY_S or done >= total > self._done_in_log:
            self._last_line, self._done_in_log = now, done
            sys.stderr.write(f"{report.line}\n")

    def metric(self, row: MetricRow) -> None:
        """Add one row to `metrics.jsonl`. Rows are written together, once a second at most."""
        if not self.reports:
            return
        if self._seq is None:
            self._seq = _rows(self.paths.metrics)
        origin = RowOrigin(
            attempt=self.paths.number, seq=self._seq, time=records.utc_now(), phase=self.name
        )
        self._seq += 1
        self._buffer += metric_rows.encode_row(origin, row)
        if time.monotonic() - self._last_flush >= _FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        if self._buffer:
            fs.append(self.paths.metrics, bytes(self._buffer))
            self._buffer.clear()
        self._last_flush = time.monotonic()

    def finish(self, report: Record) -> None:
        """Publish the phase's report. From now on the phase is finished and is not run again."""
        assert type(report) is self.info.report, f"{self.name} publishes {self.info.report}"
        self.flush()
        fs.publish(self.paths.done(self.name), records.encode(report))

    def read_report(self, phase: PhaseInfo[R]) -> R:
        """The report that an earlier phase of this attempt published."""
        return msgspec.json.decode(fs.read(self.paths.done(phase.name)), type=phase.report)

    def fail(self, error: PhaseError) -> None:
        """Write `error.json`: why this phase ends.

        When one rank fails, the others lose their connection to it and fail too. The error of the
        first rank is kept: an error is replaced only if it is about a lost connection.
        """
        earlier = records.read(self.paths.error, PhaseError)
        if earlier is None or (earlier.lost_peer and not error.lost_peer):
            fs.replace(self.paths.error, records.encode(error))


def run(info: PhaseInfo[Any], body: Callable[[Phase], int | None]) -> None:
    """A phase's `main`: parse its argument, run `body`, exit with a code of `exit_codes`."""
    parser = argparse.ArgumentParser(prog=f"the {info.name} phase")
    parser.add_argument("attempt_dir", type=Path)
    rank = int(os.environ.get("RANK", "0"))
    phase = Phase(info, parser.parse_args().attempt_dir, reports=rank == 0)
    # Until a phase installs its own handlers, a stop signal ends the process at once: finished work
    # is on disk already, and a native call that is still running must not delay the exit.
    for sig in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(sig, lambda signum, frame: os._exit(exit_codes.STOPPED))
    sys.exit(guard(phase, body))


def guard(phase: Phase, body: Callable[[Phase], int | None]) -> int:
    """Run `body`; turn what it raises into error.json and an exit code."""
    try:
        return body(phase) or exit_codes.DONE
    except Exception as error:
        kind = classify(error)
        if kind is None:  # a full disk or a failing filesystem shows as many different errors
            broken = write_error(phase.paths.dir, size=1 << 20)
            kind = classify(broken) if broken is not None else None
        with contextlib.suppress(OSError, DiskFull):
            _report_error(phase, error, kind)
        codes = {
            None: exit_codes.UNEXPLAINED,
            Reason.DISK: exit_codes.DISK_FULL,
            Reason.OOM: exit_codes.OUT_OF_MEMORY,
            Reason.FILESYSTEM: exit_codes.FILESYSTEM,
        }
        return codes.get(kind, exit_codes.REFUSED)


def _report_error(phase: Phase, error: Exception, kind: Reason | None) -> None:
    """Log the error and write `error.json`."""
    known = isinstance(error, JobspecError)
    message = str(error) if known else _first_line(error)
    hint = getattr(error, "hint", None)
    if not known:
        traceback.print_exc()
    sys.stderr.write(f"{phase.name}: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    phase.fail(
        PhaseError(
            phase=phase.name,
            kind=kind,
            message=message,
            hint=hint,
            step=getattr(error, "step", None),
            lost_peer=_has_any(str(error), _LOST_PEER_MESSAGES),
        )
    )
    phase.flush()


def classify(error: BaseException) -> Reason | None:
    """The reason that an exception stands for; None if only the supervisor can tell."""
    if isinstance(error, DiskFull):
        return Reason.DISK
    if isinstance(error, JobspecError):
        return Reason.FAILED
    if isinstance(error, OSError) and error.errno in FULL:
        return Reason.DISK
    if isinstance(error, OSError) and error.errno in TRANSIENT and not _is_of_network(error):
        return Reason.FILESYSTEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Reason.OOM
    # Libraries written in C++ raise RuntimeError; only the message tells what happened.
    message = str(error)
    if _has_any(message, _DISK_FULL_MESSAGES):
        return Reason.DISK
    if _has_any(message, _FILESYSTEM_MESSAGES):
        return Reason.FILESYSTEM
    if _has_any(message, _OUT_OF_MEMORY_MESSAGES):
        return Reason.OOM
    if _has_any(message, _LOST_PEER_MESSAGES):
        return None
    return Reason.FAILED if _is_permanent(error, message) else None


def _is_of_network(error: OSError) -> bool:
    """Whether a connection failed and not a filesystem: then no file is named."""
    return isinstance(error, ConnectionError | TimeoutError) and error.filename is None


def _is_permanent(error: BaseException, message: str) -> bool:
    """Whether another attempt would fail in the same way: wrong types, shapes or settings."""
    if isinstance(error, _PERMANENT_ERRORS) or type(error).__name__ == "SafetensorError":
        return True
    return isinstance(error, RuntimeError) and _has_any(message, _PERMANENT_MESSAGES)


def _has_any(message: str, texts: tuple[str, ...]) -> bool:
    return any(text in message for text in texts)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


def _rows(path: Path) -> int:
    try:
        return fs.read(path).count(b"\n")
    except FileNotFoundError:
        return 0
