"""What a spec asks of each benchmark: under which name, and with which settings."""

from __future__ import annotations

from typing import Any

import msgspec

from jobspec.benchmarks import registry
from jobspec.spec.schema import BenchmarkOverrides, EvalSpec, JobSpec


def sampling(eval_spec: EvalSpec, benchmark: str) -> dict[str, Any]:
    """The settings in force for one benchmark, overrides applied.

    Returns:
        Every field of `BenchmarkOverrides`. Unless overridden, `avg_k` is what the benchmark asks
        for, and 1 for tasks of lm-eval.
    """
    names = BenchmarkOverrides.__struct_fields__
    settings = {name: getattr(eval_spec, name) for name in names}
    known = registry.get(benchmark)
    settings["avg_k"] = 1 if known is None else known.samples_per_question(eval_spec.avg_k)
    override = eval_spec.overrides.get(benchmark)
    if override is not None:
        given = {name: getattr(override, name) for name in names}
        settings.update({name: value for name, value in given.items() if value is not None})
    return settings


def with_canonical_names(spec: JobSpec) -> JobSpec:
    """The spec with each benchmark under the name it is kept by: `MATH-500` → `minerva_math500`.

    A spec that says the same in other names would otherwise have another id. Call
    `jobspec.spec.schema.check` on the result: two names may mean the same benchmark.
    """
    if spec.eval is None:
        return spec
    canonical = msgspec.structs.replace(
        spec.eval,
        benchmarks=tuple(map(registry.canonical_name, spec.eval.benchmarks)),
        overrides={registry.canonical_name(k): v for k, v in spec.eval.overrides.items()},
    )
    return msgspec.structs.replace(spec, eval=canonical)
