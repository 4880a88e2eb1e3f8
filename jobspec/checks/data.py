"""Checks the data files of a spec: that they can be read, and that they are still the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import DataError, SpecError, data_changed
from jobspec.spec.schema import DataSpec
from jobspec.spec.sources import group_place, list_sources
from jobspec.storage import data_files

RELATIVE_PATHS = "relative paths are taken from the directory you call jobspec in"
_OWN_ROWS = f"link your rows there, or name them: `jobspec new … --data FILE`; {RELATIVE_PATHS}"


def complete(data: DataSpec, file: Path | None) -> DataSpec:
    """Fill in the hash of each data file and the name of each source, and make paths absolute.

    Raises:
        SpecError: a file can't be read, or is not the one that the spec expects.
    """
    found: list[dict[str, Any]] = []
    for index, source in enumerate(list_sources(data)):
        path = absolute(source.path)
        sha256 = _sha256_of(Path(path), source.sha256, file, group_place(data, index))
        found.append({"path": path, "sha256": sha256})
    if data.path is not None:
        return msgspec.structs.replace(data, **found[0])
    named = zip(data.sources, list_sources(data), found, strict=True)
    sources = (
        msgspec.structs.replace(given, name=source.name, **facts) for given, source, facts in named
    )
    return msgspec.structs.replace(data, sources=tuple(sources))


def with_absolute_paths(data: DataSpec) -> DataSpec:
    """Make the path of each data file absolute."""
    if data.path is not None:
        return msgspec.structs.replace(data, path=absolute(data.path))
    sources = (
        msgspec.structs.replace(source, path=absolute(source.path)) for source in data.sources
    )
    return msgspec.structs.replace(data, sources=tuple(sources))


def absolute(path: str) -> str:
    """A path from the directory that the command runs in. Symlinks are kept: they move."""
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - `resolve` follows symlinks


def _sha256_of(path: Path, expected: str | None, file: Path | None, group: str) -> str:
    """The hash of a data file. Raises SpecError if the spec expected another one."""
    if not path.is_dir():
        refuse_unreadable(path, f"{group}.path", file, _OWN_ROWS)
    try:
        found, _ = data_files.digest(path)
    except DataError as error:
        raise SpecError(
            f"`{path}` {error.message}", file=file, place=f"{group}.path", hint=error.hint
        ) from error
    if expected is not None and expected != found:
        raise SpecError(
            f"`{path}` {data_changed(found, expected)}",
            file=file,
            place=f"{group}.sha256",
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
