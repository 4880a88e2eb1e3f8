"""Refuses specs with text that looks like a password or an access key.

A spec is copied into the queue, into results, to W&B and into papers. Keys belong in the
environment of the program that uses them: `WANDB_API_KEY` in that of the relay, `HF_TOKEN` in that
of `jobspec fetch`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from jobspec.errors import SpecError
from jobspec.spec.schema import JobSpec

_KINDS = {
    "a Hugging Face token": re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}"),
    "a W&B key": re.compile(r"\bwandb_v\d+_[A-Za-z0-9_]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a password in a URL": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@"),
}
# W&B's older keys are 40 hex digits, as commits are: they count as keys where they stand
# alone, and in a text that calls them keys.
_HEX = re.compile(r"[0-9a-f]{40}")
_NAMED_HEX = re.compile(r"(?:key|token|secret|passw\w*|login)\W{0,4}[0-9a-f]{40}\b", re.IGNORECASE)
# All of it, or what a log has of it.
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY(?s:.*?)(?:-----END [A-Z ]*KEY-----|\Z)")
_COMMITS = ("$.model.revision", "$.spec.model.revision", "$.manifest.code.commit")


def refuse(spec: JobSpec, *, file: str | Path | None = None) -> None:
    """Raise SpecError, naming the place but not the value, if something looks like a secret."""
    for place, kind in find(spec):
        raise SpecError(
            f"looks like {kind}",
            file=file,
            place=place,
            hint="specs are copied everywhere: take it out, make it invalid where it came from, "
            "and set WANDB_API_KEY or HF_TOKEN in the environment instead",
        )


def find(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """(JSON path, what it looks like) of every text in a spec that looks like a secret."""
    for place, text in _texts(msgspec.to_builtins(spec), "$"):
        kind = _kind(text, place)
        if kind is not None:
            yield place, kind


def redact(value: Any, place: str = "$") -> Any:
    """`value` with every text in it that looks like a secret replaced by what it looks like.

    For what leaves the root: jobs of an earlier version may hold what is refused today.
    """
    if isinstance(value, str):
        kind = _kind(value, place)
        return value if kind is None else f"<{kind}>"
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {redact(key, place): redact(inner, f"{place}.{key}") for key, inner in pairs}
    if isinstance(value, list | tuple):
        return [redact(inner, f"{place}[]") for inner in cast("list[Any]", value)]
    return value


def replace_in(text: str) -> tuple[str, int]:
    """A long text, such as a log, whose secrets are replaced by what they look like, and how many.

    Forty hex digits count as a key only where the text calls them so.
    """
    found = 0
    for kind, pattern in {**_KINDS, "a private key": _PRIVATE_KEY, "a key": _NAMED_HEX}.items():
        text, number = pattern.subn(f"<{kind}>", text)
        found += number
    return text, found


def _kind(text: str, place: str) -> str | None:
    for kind, pattern in _KINDS.items():
        if pattern.search(text):
            return kind
    alone = _HEX.fullmatch(text.strip()) is not None and place not in _COMMITS
    return "a W&B key" if alone or _NAMED_HEX.search(text) else None


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text with its JSON path; the keys of dictionaries too, under their owner's path."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield place, key
            yield from _texts(inner, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(cast("list[Any]", value)):
            yield from _texts(inner, f"{place}[{number}]")
