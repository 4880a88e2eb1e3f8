"""Estimates what evaluating a spec takes: the most tokens, the typical number, and hours.

Nothing is guessed. The typical length and the speed are taken from finished jobs of the same model
in this queue; without such a job they are null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from jobspec.benchmarks import question_file, registry
from jobspec.estimates import history
from jobspec.records.reports import EvalReport
from jobspec.spec import schema as specs
from jobspec.spec.benchmark_settings import sampling
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths


class BenchmarkEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark. Null means unknown, as an unmeasured length or, of an lm-eval task, its size.

    `typical_tokens`: questions × k × the mean length that `measured_by` had.
    """

    benchmark: str
    questions: int | None
    k: int
    max_gen_toks: int | None
    tokens_at_most: int | None
    typical_tokens: int | None = None
    measured_by: str | None = None


class EvaluationEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """All benchmarks of a spec; a total is null if one of its parts is.

    `tokens_per_second` is the speed of the finished job `speed_of`, on whatever devices it ran.
    """

    benchmarks: list[BenchmarkEstimate]
    tokens_at_most: int | None
    typical_tokens: int | None
    tokens_per_second: float | None = None
    speed_of: str | None = None
    hours_at_most: float | None = None
    typical_hours: float | None = None


def estimate(spec: JobSpec, root: Path) -> EvaluationEstimate | None:
    """Estimate the evaluation of a spec; None for a spec that evaluates nothing."""
    if spec.eval is None:
        return None
    measured = list(history.evaluations(spec.model.name, root))
    parts = [_benchmark(spec.eval, name, root, measured) for name in spec.eval.benchmarks]
    most = _total([part.tokens_at_most for part in parts])
    typical = _total([part.typical_tokens for part in parts])
    fast = next(((job, found.timing) for job, found in measured if found.timing.generate_s), None)
    if fast is None:
        return EvaluationEstimate(benchmarks=parts, tokens_at_most=most, typical_tokens=typical)
    rate = fast[1].tokens / fast[1].generate_s
    return EvaluationEstimate(
        benchmarks=parts,
        tokens_at_most=most,
        typical_tokens=typical,
        tokens_per_second=rate,
        speed_of=fast[0],
        hours_at_most=_hours(most, rate),
        typical_hours=_hours(typical, rate),
    )


def _benchmark(
    settings: specs.EvalSpec,
    name: str,
    root: Path,
    measured: Sequence[tuple[str, EvalReport]],
) -> BenchmarkEstimate:
    settings_here = sampling(settings, name)
    asked, k = _question_count(settings, name, root), settings_here["avg_k"]
    samples = None if asked is None else asked * k
    key = f"bench/{name}/mean_response_tokens"
    seen = [(job, found.metrics.get(key)) for job, found in measured]
    job, length = next(((job, mean) for job, mean in seen if mean), (None, None))
    # Another job may have been allowed longer answers than this one will be.
    most = settings_here["max_gen_toks"] if registry.get(name) else _own_budget(settings, name)
    mean = length if length is None or most is None else min(length, most)
    return BenchmarkEstimate(
        benchmark=name,
        questions=asked,
        k=k,
        max_gen_toks=most,
        tokens_at_most=None if samples is None or most is None else samples * most,
        typical_tokens=None if samples is None or mean is None else round(samples * mean),
        measured_by=job,
    )


def _own_budget(settings: specs.EvalSpec, task: str) -> int | None:
    """The tokens that the spec allows an lm-eval task; None where the task decides."""
    override = settings.overrides.get(task)
    return None if override is None else override.max_gen_toks


def _question_count(settings: specs.EvalSpec, name: str, root: Path) -> int | None:
    benchmark = registry.get(name)
    if benchmark is None:
        return None
    where = question_file.directories(settings.benchmark_dir, RootPaths(root).cache / "benchmarks")
    file = question_file.find(benchmark, where)
    count = len(question_file.read(benchmark, file).questions) if file else benchmark.question_count
    limit = sampling(settings, name)["limit"]
    return count if count is None or limit is None else min(count, limit)


def _total(parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _hours(tokens: int | None, rate: float) -> float | None:
    return None if tokens is None or rate <= 0 else tokens / rate / 3600
