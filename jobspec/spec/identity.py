"""A spec's canonical bytes, and the job id that is computed from them.

Two specs are the same experiment exactly if their canonical bytes are equal. A spec's id must never
change, so these bytes must not change when the project adds a field: `schema.ADDED_LATER` says how.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, cast

import msgspec

from jobspec.spec.schema import ADDED_LATER, Spec

_DIGEST_DIGITS = 10


def canonical(spec: Spec) -> bytes:
    """Encode a spec in the one way that its id is computed from.

    Fields come in the order of their declaration, dictionaries are sorted, and the text is indented
    for people. Every field is written, except those marked `ADDED_LATER` that have their default.
    """
    plain = msgspec.to_builtins(spec, order="deterministic")
    _drop_later_fields(spec, plain)
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def job_id(name: str, data: bytes) -> str:
    """Return `<slug>-<digest>`, which fits a file name.

    Args:
        name: the spec's name, which becomes the slug.
        data: the spec's canonical bytes.
    """
    return f"{slug(name)}-{digest(data)}"


def slug(name: str) -> str:
    """A spec's name as it stands in the job's id."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-") or "job"


def digest(data: bytes) -> str:
    """Return the last part of a job id: the first ten hex digits of the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()[:_DIGEST_DIGITS]


def _drop_later_fields(value: object, plain: Any) -> None:
    """Delete from `plain`, the builtins of `value`, what `canonical` leaves out; at every depth."""
    if isinstance(value, Spec):
        for name, default in _later_fields(type(value)).items():
            if getattr(value, name) == default:
                del plain[name]
        for name in plain:
            _drop_later_fields(getattr(value, name), plain[name])
    elif isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            _drop_later_fields(inner, plain[key])
    elif isinstance(value, list | tuple):
        for inner, plain_inner in zip(cast("Iterable[object]", value), plain, strict=True):
            _drop_later_fields(inner, plain_inner)


@cache
def _later_fields(kind: type[Spec]) -> dict[str, Any]:
    """The fields of a struct that are marked `ADDED_LATER`, with their defaults."""
    return {
        field.name: _default(field)
        for field in msgspec.structs.fields(kind)
        if ADDED_LATER in getattr(field.type, "__metadata__", ())
    }


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    if field.default is not msgspec.NODEFAULT:
        return field.default
    raise TypeError(f"`{field.name}` was added later, so it needs a default: what old specs mean")
