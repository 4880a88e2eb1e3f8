"""Which protocols a benchmark has, and whether two scores were measured in the same way."""

from __future__ import annotations

from typing import Any

import msgspec

from jobspec.benchmarks.benchmark import Benchmark
from jobspec.errors import SpecError
from jobspec.records.base import UNSET
from jobspec.records.reports import ScoringProtocol

# The fields that a score depends on. Scores may be compared across versions, engines and dtypes.
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "max_gen_toks")
FIELDS = (
    "protocol",
    "shots",
    "k",
    "stop_rule",
    *SAMPLING,
    "kv_cache_dtype",
    "chat_template",
    "chat_template_kwargs",
    "think_end_token",
    "answer_reader",
    "metric",
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


def refuse_unknown_protocol(benchmark: Benchmark, protocol: str, num_fewshot: int | None) -> None:
    """Raise SpecError if a benchmark can't be asked by this protocol, or has no worked examples."""
    stock = benchmark.stock
    if protocol == "stock" and stock is None:
        raise SpecError(
            f"lm-eval has no task like `{benchmark.name}` whose protocol could be used",
            place="$.eval.protocol",
            hint="set it to `published`, or score this benchmark in a spec of its own",
        )
    if num_fewshot and (stock is None or stock.examples is None):
        raise SpecError(
            f"`{benchmark.name}` has no worked examples to show",
            place="$.eval.num_fewshot",
            hint="set it to null or 0 for this benchmark",
        )


def differences(a: ScoringProtocol, b: ScoringProtocol) -> list[Differing]:
    """The fields in which two protocols differ; empty if their scores may be compared.

    The hash of the prompts is taken after rendering, so it differs between chat templates. Where
    both were sampled by the same stop rule, the numbers of samples it led to may differ.
    """
    same_rule = a.stop_rule is not UNSET and a.stop_rule == b.stop_rule
    fields = [field for field in FIELDS if not (same_rule and field == "k")]
    pairs = ((field, value_of(a, field), value_of(b, field)) for field in fields)
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
