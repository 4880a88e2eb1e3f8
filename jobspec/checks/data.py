"""Checks the data file of a spec: that it can be read, and that it is still the same file."""

from __future__ import annotations

from pathlib import Path

from jobspec.errors import DataError, SpecError, data_changed
from jobspec.storage import data_files

RELATIVE_PATHS = "relative paths are taken from the directory you call jobspec in"
_OWN_ROWS = f"link your rows there, or name them: `jobspec new … --data FILE`; {RELATIVE_PATHS}"


def sha256_of(path: Path, expected: str | None, file: Path | None) -> str:
    """Return the hash of a data file. Raises SpecError if the spec expected another one."""
    if not path.is_dir():
        refuse_unreadable(path, "$.data.path", file, _OWN_ROWS)
    try:
        found, _ = data_files.digest(path)
    except DataError as error:
        raise SpecError(
            f"`{path}` {error.message}", file=file, place="$.data.path", hint=error.hint
        ) from error
    if expected is not None and expected != found:
        raise SpecError(
            f"`{path}` {data_changed(found, expected)}",
            file=file,
            place="$.data.sha256",
            hint="put the old data back, or set sha256 to null: other data, other experiment",
        )
    return found


def refuse_unreadable(path: Path, place: str, file: Path | None, hint: str) -> None:
    """Raise SpecError, naming the field and the spec file, if a file is missing or empty."""
    try:
        with path.open("rb") as opened:
            first = opened.read(1)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise SpecError(
            f"`{path}` {'does not exist' if missing else f'can not be read: {error.strerror}'}",
            file=file,
            place=place,
            hint=hint,
        ) from error
    if not first:
        raise SpecError(f"`{path}` is empty", file=file, place=place, hint="is it still written?")
