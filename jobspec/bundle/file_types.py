"""The type of each file of a bundle. A file of another kind, or of wrong content, is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, cast

import msgspec

from jobspec.bundle.about import AboutBundle
from jobspec.errors import JobspecError
from jobspec.records import phases
from jobspec.records.attempt import (
    AttemptEvent,
    ClaimRevoked,
    End,
    PhaseError,
    Result,
    Retry,
)
from jobspec.records.evaluation import (
    AskedQuestion,
    Generation,
    Likelihood,
    QuestionScore,
    SamplingPlan,
)
from jobspec.records.manifest import Manifest, MicroBatchPlan
from jobspec.records.metric_rows import AnyRow
from jobspec.spec import parsing
from jobspec.storage.layout import AttemptPaths, BundlePaths, EvaluationPaths

_MODEL_SUFFIXES = frozenset((".safetensors", ".json", ".jinja", ".txt", ".model"))
_ATTEMPT = re.compile(r"attempts/[1-9][0-9]{0,5}/(?P<rest>.+)")
_ROWS_OF_SAMPLES = {
    re.compile(r"generations-[0-9]{5,9}\.jsonl"): Generation,
    re.compile(r"likelihoods-[0-9a-f]{0,8}-[0-9]{5,9}\.jsonl"): Likelihood,
}
_DEEPEST = 64  # levels of nesting in a file without a type


def check_type(paths: BundlePaths, name: str, about: AboutBundle) -> None:
    """Raise JobspecError, with the place, unless a file is what its name says."""
    kind = _kind(name, about)
    if kind is None:
        raise JobspecError("is no file that a bundle has", file=name)
    if kind is bytes or name.endswith(".safetensors"):
        return
    data = (paths.dir / name).read_bytes()
    if kind is str:
        _decode_text(data, name)
    elif name == paths.spec.name:
        _decode(data, kind, name, None)
        parsing.decode(data, file=name)
    elif name.endswith(".jsonl"):
        for number, line in enumerate(data.splitlines(), start=1):
            _decode(line, kind, name, f"line {number}")
            if kind is AnyRow:  # which has more fields, of any type
                _decode(line, dict[str, Any], name, f"line {number}")
    else:
        _decode(data, kind, name, None)


def _kind(name: str, about: AboutBundle) -> Any:
    """The type of a file's records; `str` for text, `bytes` for what is not read."""
    known: dict[str, Any] = {
        **dict.fromkeys((BundlePaths.ABOUT, BundlePaths.CRATE), dict[str, Any]),
        BundlePaths.SUMS: str,
        BundlePaths(Path()).spec.name: dict[str, Any],
        BundlePaths(Path()).model_card.name: str,
    }
    if name in known:
        return known[name]
    if name in {each.path for each in about.data}:
        return bytes  # read by the worker's own row reader
    match = _ATTEMPT.fullmatch(name)
    return _kind_in_attempt(match["rest"]) if match else None


def _kind_in_attempt(rest: str) -> Any:
    path = PurePosixPath(rest)
    if rest in _of_attempt():
        return _of_attempt()[rest]
    top = path.parts[0]
    if top in (AttemptPaths.FINAL_MODEL, AttemptPaths.ADAPTER) and len(path.parts) == 2:
        return bytes if path.suffix in _MODEL_SUFFIXES else None
    if top == AttemptPaths.EVAL:
        return _kind_of_samples(path.name)
    return str if len(path.parts) == 1 and path.suffix == ".log" else None


@cache
def _of_attempt() -> Mapping[str, Any]:
    """The records of an attempt by their paths in its directory."""
    attempt = AttemptPaths(Path())
    found: dict[Path, Any] = {
        attempt.manifest: Manifest,
        attempt.micro_batches: MicroBatchPlan,
        attempt.events: AttemptEvent,
        attempt.metrics: AnyRow,
        attempt.result: Result,
        attempt.end: End,
        attempt.error: PhaseError,
        attempt.retry: Retry,
        attempt.revoked: ClaimRevoked,
    }
    found |= {attempt.done(phase.name): phase.report for phase in phases.PHASES}
    return {path.as_posix(): kind for path, kind in found.items()}


def _kind_of_samples(name: str) -> Any:
    paths = EvaluationPaths(Path())
    known = {
        paths.plan.name: SamplingPlan,
        paths.questions.name: AskedQuestion,
        paths.scores.name: QuestionScore,
    }
    patterns = (kind for pattern, kind in _ROWS_OF_SAMPLES.items() if pattern.fullmatch(name))
    return known.get(name) or next(patterns, None)


def _decode(data: bytes, kind: Any, name: str, line: str | None) -> None:
    try:
        value = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        place = ", ".join(filter(None, (line, place.rstrip("`"))))
        raise JobspecError(message, file=name, place=place or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JobspecError(f"not valid JSON: {error}", file=name, place=line) from error
    except RecursionError as error:
        raise JobspecError("nested too deeply", file=name, place=line) from error
    if isinstance(value, dict) and _is_deeper(value, _DEEPEST):
        raise JobspecError("nested too deeply", file=name, place=line)


def _is_deeper(value: Any, most: int) -> bool:
    """Whether lists and objects are nested in more than `most` levels."""
    level: list[Any] = [value]
    for _ in range(most):
        inner = [each for holder in level for each in _values(holder)]
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _values(holder: Any) -> Iterable[Any]:
    if isinstance(holder, dict):
        return cast("dict[str, Any]", holder).values()
    return cast("list[Any]", holder)


def _decode_text(data: bytes, name: str) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise JobspecError("not UTF-8", file=name, place=f"byte {error.start + 1}") from error
    if "\0" in text:
        place = f"character {text.index(chr(0)) + 1}"
        raise JobspecError("a NUL character", file=name, place=place)
