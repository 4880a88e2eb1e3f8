"""Scores that papers and model cards report, and the settings they were made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from jobspec.errors import SpecError

FILE = Path(__file__).with_name("published.json")


class PublishedScore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One score, in percent: the mean of `k` samples a question, over `runs` such runs.

    `k` is null if it is not stated; it then counts as 1, which gives the widest error.
    """

    score: Annotated[float, Meta(ge=0, le=100)]
    k: Annotated[int, Meta(ge=1)] | None
    questions: Annotated[int, Meta(ge=1)]
    max_gen_toks: Annotated[int, Meta(ge=1)]
    runs: Annotated[int, Meta(ge=1)] = 1


class PublishedResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one source reports of one model in one variant.

    `eval` holds the settings, with the names of a spec's fields.
    """

    model: str
    variant: str
    by: str
    source: str
    eval: dict[str, Any]
    scores: dict[str, PublishedScore]

    @property
    def name(self) -> str:
        return f"{self.model}:{self.variant}"

    def only(self, benchmarks: Sequence[str]) -> PublishedResult:
        """With the scores of these benchmarks alone. Raises SpecError if it has none of them."""
        scores = {name: score for name, score in self.scores.items() if name in benchmarks}
        if not scores:
            raise SpecError(
                f"no published scores of `{self.name}` on {', '.join(benchmarks)}",
                hint=f"there are scores on {', '.join(self.scores)}",
            )
        return msgspec.structs.replace(self, scores=scores)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    entries: list[PublishedResult]


def load(path: Path = FILE) -> list[PublishedResult]:
    """The published scores in a file like `published.json`. Raises SpecError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).entries
    except OSError as error:
        raise SpecError(f"can't be read: {error.strerror}", file=path) from error
    except msgspec.MsgspecError as error:
        raise SpecError(str(error), file=path, hint=f"{FILE} is an example") from error


def chosen(entries: Sequence[PublishedResult], names: Sequence[str]) -> list[PublishedResult]:
    """The results of models by name, or by `model:variant`.

    A name alone means the results that the model's own publisher reports. Raises SpecError for an
    unknown name.
    """
    found: list[PublishedResult] = []
    for name in names:
        mine = [entry for entry in entries if entry.name == name]
        if not mine:
            of_model = [entry for entry in entries if entry.model == name]
            mine = [entry for entry in of_model if entry.by == of_model[0].by]
        if not mine:
            known = ", ".join(entry.name for entry in entries)
            raise SpecError(f"no published scores of `{name}`", hint=f"there are {known}")
        found += [entry for entry in mine if entry not in found]
    return found
