"""All errors that users can fix. Any other exception is a bug and shows its traceback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class JobspecError(Exception):
    """An error that a user can fix. `str()` says what is wrong and where, `hint` what to do.

    `others` are further errors that were found at the same time.
    """

    others: tuple[JobspecError, ...] = ()

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


def raise_all(errors: Sequence[JobspecError]) -> None:
    """Raise the first error, with the others attached; nothing if there is none."""
    every = [each for error in errors for each in (error, *error.others)]
    if every:
        every[0].others = tuple(every[1:])
        raise every[0]


def collect(errors: list[JobspecError], check: Callable[[], T], otherwise: T) -> T:
    """The result of a check; if it raises a JobspecError, add that to `errors` and go on."""
    try:
        return check()
    except JobspecError as error:
        errors.append(error)
        return otherwise


class SpecError(JobspecError):
    """A spec is not valid. `place` is a JSON path such as `$.train.learning_rate`."""


class DataError(JobspecError):
    """A data file cannot be used for training. `place` names the row, counted from 1."""


class MalformedRow(DataError):  # noqa: N818 - reads as what happened
    """One row is not a conversation that can be trained on. Such rows are dropped and counted."""


class TemplateError(JobspecError):
    """A chat template renders text in which the trained tokens cannot be verified."""


class ModelError(JobspecError):
    """A model directory is missing, incomplete, or of an unsupported kind."""


class BenchmarkError(JobspecError):
    """A benchmark is unknown, unreachable, or its file is damaged."""


def data_changed(found: str, expected: str) -> str:
    """The message for a data file that is not the one in its spec, by SHA-256 in hex."""
    return f"has changed: its SHA-256 is {found[:12]}…, the spec says {expected[:12]}…"


class RootError(JobspecError):
    """The root is missing, not writable, unsafe, or of another layout version."""


class JobNotFound(JobspecError):  # noqa: N818 - reads as what happened
    """No job matches a name, or several do."""


class TransitionRefused(JobspecError):  # noqa: N818 - reads as what happened
    """The transition does not exist for a job in this state."""


class ClaimLost(JobspecError):  # noqa: N818 - reads as what happened
    """The claim was reaped or cancelled, so its former holder must not change anything."""


class DiskFull(JobspecError):  # noqa: N818 - reads as what happened
    """The filesystem or the quota is full (ENOSPC, EDQUOT). No partial file stays."""
