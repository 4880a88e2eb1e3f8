"""The data files of a spec: `data.path`, or the sources of a mixture, `data.sources`."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import PurePath

import msgspec

from jobspec.errors import DataError
from jobspec.spec.schema import DataSpec, SourceSpec

_SINGLE = "$.data.path"


def list_sources(data: DataSpec) -> tuple[SourceSpec, ...]:
    """The sources with their names and formats. `data.path` counts as one without a name."""
    if data.path is not None:
        return (SourceSpec(path=data.path, sha256=data.sha256, format=data.format),)
    return tuple(
        msgspec.structs.replace(
            source, name=source_name(source), format=source.format or data.format
        )
        for source in data.sources
    )


def source_name(source: SourceSpec) -> str:
    """The source's name: that of its file up to the first dot, unless the spec gives another."""
    if source.name is not None:
        return source.name
    stem = PurePath(source.path).name.lstrip(".").partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).lstrip("_-")[:50] or "source"


def group_place(data: DataSpec, index: int) -> str:
    """The JSON path of the group that a source's fields are in."""
    return "$.data" if data.path is not None else f"$.data.sources[{index}]"


@contextmanager
def errors_at(place: str) -> Generator[None]:
    """Let errors about a data file name `place`, the path of its field, instead of `data.path`."""
    try:
        yield
    except DataError as error:
        if error.place != _SINGLE or place == _SINGLE:
            raise
        raise type(error)(error.message, hint=error.hint, file=error.file, place=place) from error
