"""Every error this project raises on purpose; anything else is a bug and keeps its traceback."""

from __future__ import annotations

from pathlib import Path


class JobspecError(Exception):
    """Something a person can put right. `str()` says what and where; `hint` what to do."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        file: str | Path | None = None,
        place: str | None = None,
    ) -> None:
        where = ", ".join(str(part) for part in (file, place) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.hint = hint
        self.file = None if file is None else str(file)
        self.place = place


class SpecError(JobspecError):
    """A spec is not valid. `place` is a JSON path such as `$.train.learning_rate`."""


class DataError(JobspecError):
    """A data file can't be trained on. `place` names the row, counted from 1."""


class TemplateError(JobspecError):
    """A chat template renders text whose trained span can't be verified."""


class ModelError(JobspecError):
    """A model directory is missing, incomplete, or not of a kind we train."""


class BenchmarkError(JobspecError):
    """A benchmark is unknown, unreachable, or its file is damaged."""


def data_changed(found: str, expected: str) -> str:
    """In words, that a data file is not the one its spec was made for (SHA-256, in hex)."""
    return f"has changed: its SHA-256 is {found[:12]}…, the spec says {expected[:12]}…"


class RootError(JobspecError):
    """The root can't be used: missing, not writable, unsafe, or of another layout version."""


class JobNotFound(JobspecError):  # noqa: N818 - reads as what happened
    """No job answers to that name, or more than one does."""


class TransitionRefused(JobspecError):  # noqa: N818 - reads as what happened
    """The job is in a state from which that transition does not exist."""


class ClaimLost(JobspecError):  # noqa: N818 - reads as what happened
    """The claim was reaped or cancelled: whatever its holder still does must change nothing."""


class DiskFull(JobspecError):  # noqa: N818 - reads as what happened
    """The filesystem or the quota is full (ENOSPC, EDQUOT). Nothing half-written stays."""
