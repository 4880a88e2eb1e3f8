"""Keeps benchmarks apart: one that fails does not take the scores of the others with it."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping

from jobspec.errors import BenchmarkError, JobspecError
from jobspec.records.base import Reason
from worker.phase import classify

# Failures of the machine concern all benchmarks.
_OF_THE_MACHINE = (Reason.DISK, Reason.OOM)


@contextlib.contextmanager
def kept_apart(failures: dict[str, Exception], name: str) -> Iterator[None]:
    """Note the error of a benchmark in `failures`, and go on."""
    try:
        yield
    except Exception as error:
        if classify(error) in _OF_THE_MACHINE:
            raise
        if not isinstance(error, JobspecError):
            traceback.print_exception(error)
        sys.stderr.write(f"eval: {name} failed: {describe(error)}\n")
        failures[name] = error


def describe(error: Exception) -> str:
    """An error in one line."""
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, JobspecError) else f"{type(error).__name__}: {text}"


def raise_for(failures: Mapping[str, Exception], scored: int) -> None:
    """End the phase for the benchmarks that failed; the scores of the others are published.

    Raises:
        Exception: one that another attempt may not meet, if there is one.
        BenchmarkError: all of them would fail again.
    """
    for error in failures.values():
        if classify(error) is None:
            raise error
    if len(failures) == 1 and not scored:
        raise next(iter(failures.values()))
    if failures:
        told = "; ".join(f"{name}: {describe(error)}" for name, error in failures.items())
        errors = [error for error in failures.values() if isinstance(error, JobspecError)]
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        kept = "the scores of the others are kept; `jobspec retry` runs only these again"
        raise BenchmarkError(
            f"{len(failures)} of {len(failures) + scored} benchmarks failed: {told}",
            hint="; ".join([*hints, *([kept] if scored else [])]) or None,
        )
