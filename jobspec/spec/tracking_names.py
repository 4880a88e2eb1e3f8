"""Which names W&B accepts for projects, entities, groups and runs.

Specs are checked when they are enqueued and not when they are read, so that jobs that were queued
before stay readable.

Source: wandb's `Settings.validate_project`; the server's limit of 128 characters for names. An
entity is a part of a URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobspec.errors import SpecError
from jobspec.spec.schema import TrackingSpec

LONGEST = 128
_NOT_IN_PROJECTS = "/\\#?%:"
_NOT_IN_ENTITIES = f"{_NOT_IN_PROJECTS} @&=+,;'\"<>"


def check(tracking: TrackingSpec, file: Path) -> None:
    """Raise SpecError for the first name that W&B would refuse."""
    for name in ("project", "entity", "group"):
        value: str | None = getattr(tracking, name)
        for wrong, hint in problems(name, value):
            raise SpecError(wrong, file=file, place=f"$.tracking.{name}", hint=hint)


def problems(kind: str, value: str | None) -> Iterator[tuple[str, str]]:
    """What W&B refuses in a `project`, an `entity` or a `group`, and what to do about it."""
    if value is None:
        return
    if len(value) > LONGEST:
        yield f"has {len(value)} characters, W&B takes {LONGEST}", "use a shorter name"
    if value != value.strip() or not value.isprintable():
        yield (
            f"`{value!r:.60}` begins or ends with a space, or has one that is not shown",
            "remove it",
        )
    excluded = {"project": _NOT_IN_PROJECTS, "entity": _NOT_IN_ENTITIES}.get(kind, "")
    found = [letter for letter in excluded if letter in value]
    if found:
        yield f"`{value[:60]}` has {_named(found)}, which W&B refuses", _advice(kind, value)


def _named(letters: list[str]) -> str:
    return " and ".join("a space" if letter == " " else f"`{letter}`" for letter in letters)


def _advice(kind: str, value: str) -> str:
    first, slash, second = value.partition("/")
    if kind == "project" and slash and "/" not in second:
        return f'write `"entity": "{first[:60]}", "project": "{second[:60]}"`'
    return "use letters, digits, `-`, `_` and `.`"
