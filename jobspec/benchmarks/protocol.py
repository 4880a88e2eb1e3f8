"""Compares the protocols of two scores: were they measured in the same way?"""

from __future__ import annotations

from typing import Any

import msgspec

from jobspec.records.base import UNSET
from jobspec.records.reports import ScoringProtocol

# The fields that a score depends on. Scores may be compared across versions, engines and dtypes.
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "max_gen_toks")
FIELDS = (
    "protocol",
    "shots",
    "k",
    *SAMPLING,
    "chat_template",
    "chat_template_kwargs",
    "think_end_token",
    "questions",
    "benchmark_sha256",
    "prompt_sha256",
)


class Differing(msgspec.Struct, frozen=True, kw_only=True):
    """One field in which two protocols differ."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field} {spell(self.a)} and {spell(self.b)}"


def differences(a: ScoringProtocol, b: ScoringProtocol) -> list[Differing]:
    """The fields in which two protocols differ; empty if their scores may be compared.

    The hash of the prompts is taken after rendering, so it differs between chat templates.
    """
    pairs = ((field, value_of(a, field), value_of(b, field)) for field in FIELDS)
    return [Differing(field=field, a=one, b=other) for field, one, other in pairs if one != other]


def value_of(protocol: ScoringProtocol, field: str) -> Any:
    """A field's value; None if the protocol does not have it."""
    value = getattr(protocol, field)
    return None if value is UNSET else value


def spell(value: Any) -> str:
    """A value for people to read; a hash is shortened to its first digits."""
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:8]}…"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
