"""A spec's settings as a flat table: `train.learning_rate` → 1e-05."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from jobspec.spec.schema import DataSpec, JobSpec, ModelSpec

Setting = bool | int | float | str | None
_NOT_SETTINGS = ("schema_version", "name")
_DEFAULT_SPEC = JobSpec(name="x", model=ModelSpec(name="x"), data=DataSpec())


def flatten(spec: JobSpec) -> dict[str, Setting]:
    """Every setting by its dotted name. A group that the spec leaves out has none."""
    found = dict(_flat(msgspec.to_builtins(spec), ""))
    return {
        name: value
        for name, value in found.items()
        if name not in _NOT_SETTINGS and not (value is None and "." not in name)
    }


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, dict):
        for name, inner in cast("dict[str, Any]", value).items():
            yield from _flat(inner, f"{prefix}.{name}".lstrip("."))
        if prefix.count(".") and value:
            yield prefix, "yes"  # a group that is there only if it is wanted, such as `train.lora`
    elif isinstance(value, list | tuple):
        yield prefix, _listed(cast("list[Any]", value))
    else:
        yield prefix, value


def _listed(values: list[Any]) -> str:
    texts = (
        each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in values
    )
    return ", ".join(texts)


DEFAULTS = flatten(_DEFAULT_SPEC)


def changed(spec: JobSpec) -> dict[str, Setting]:
    """The settings that differ from their defaults."""
    return {
        name: value
        for name, value in flatten(spec).items()
        if name not in DEFAULTS or value != DEFAULTS[name]
    }


def groups(spec: JobSpec) -> list[str]:
    """The groups that the spec has: a job that trains nothing has no `train`."""
    return [name for name in spec.__struct_fields__ if getattr(spec, name) is not None]
