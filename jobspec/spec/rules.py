"""The rules of a spec that no single field can state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from jobspec.errors import SpecError, raise_all
from jobspec.spec.schema import DataSpec, EvalSpec, JobSpec, TrainSpec
from jobspec.spec.sources import source_name

_Broken = tuple[str, str, str | None]  # JSON path, what is wrong, hint
# What becomes the name of a file or a directory must be one; `$` in a pattern allows a newline.
_BENCHMARK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")


def check(spec: JobSpec, *, file: str | Path | None = None) -> None:
    """Check the rules that span fields. Raises SpecError with all that are broken."""
    raise_all(broken(spec, file=file))


def broken(spec: JobSpec, *, file: str | Path | None = None) -> list[SpecError]:
    """The rules that are broken."""
    return [
        SpecError(wrong, file=file, place=place, hint=hint)
        for place, wrong, hint in _broken_rules(spec)
    ]


def _broken_rules(spec: JobSpec) -> Iterator[_Broken]:
    if spec.name.endswith("\n"):
        yield "$.name", "ends in a newline", "remove it"
    revision = spec.model.revision
    if revision is not None and not _is_revision(revision):
        yield "$.model.revision", f"`{revision[:60]}` is none", "name a branch, tag or commit"
    if spec.train is None and spec.eval is None:
        yield "$", "neither `train` nor `eval` is given: there is nothing to do", "fill in one"
    if spec.train is None and spec.data is not None:
        yield "$.data", "is given, but `train` is null", "remove one of the two"
    if spec.data is not None:
        yield from _broken_data_rules(spec.data)
    if spec.train is not None:
        yield from _broken_train_rules(spec, spec.train)
    if spec.eval is not None:
        yield from _broken_eval_rules(spec.eval)


def _broken_data_rules(data: DataSpec) -> Iterator[_Broken]:
    if (data.path is None) == (not data.sources):
        given = "both are given" if data.sources else "neither is given"
        yield "$.data", f"needs `path` or `sources`; {given}", "`sources` mixes several files"
    for name in data.ignore_fields:
        if name in ("messages", "role", "content"):
            yield "$.data.ignore_fields", f"`{name}` is what is trained on", "remove it"
    if data.sources:
        yield from _broken_source_rules(data)


def _broken_source_rules(data: DataSpec) -> Iterator[_Broken]:
    if data.sha256 is not None:
        yield "$.data.sha256", "is that of `path`", "each source has a `sha256` of its own"
    names = [source_name(source) for source in data.sources]
    paths = [source.path for source in data.sources]
    weighted = [source.weight is not None for source in data.sources]
    for index, source in enumerate(data.sources):
        place = f"$.data.sources[{index}]"
        if names[index].endswith("\n"):
            yield f"{place}.name", "ends in a newline", "remove it"
        if source.weight is not None and source.repeat is not None:
            yield place, "has both `weight` and `repeat`", "keep one of them"
        if source.weight is None and any(weighted):
            hint = "give every source a `weight`, or none"
            yield place, "has no `weight`, but another source has one", hint
        if source.path in paths[:index]:
            hint = "`repeat` trains on the rows of a file more than once"
            yield f"{place}.path", f"`{source.path}` is another source too", hint
        if names[index] in names[:index]:
            hint = 'give each source its own `name`: {"path": …, "name": "math"}'
            yield f"{place}.name", f"another source is also named `{names[index]}`", hint


def _broken_train_rules(spec: JobSpec, train: TrainSpec) -> Iterator[_Broken]:
    if spec.data is None:
        yield "$.data", "a spec that trains needs data", "add `data.path`, or set `train` to null"
    if train.global_batch_size % train.per_device_train_batch_size:
        yield (
            "$.train.global_batch_size",
            f"`{train.global_batch_size}` is not a multiple of per_device_train_batch_size "
            f"`{train.per_device_train_batch_size}`",
            "the global batch is fixed; accumulation follows from the devices found",
        )
    if train.offload == "all" and train.zero_stage != 3:
        yield "$.train.offload", "`all` moves parameters too: only ZeRO-3 can", "set zero_stage 3"
    if train.lora is not None and train.zero_stage == 3:
        yield "$.train.lora", "adapters can't be merged out of ZeRO-3's shards", "set zero_stage 2"
    if train.offload == "optimizer" and train.zero_stage == 0:
        yield "$.train.offload", "`optimizer` needs zero_stage 2 or 3", "set zero_stage to 2"
    if train.optim == "adamw_8bit" and (train.zero_stage != 2 or train.offload != "none"):
        wrong = "`adamw_8bit` needs the flat weights of ZeRO-2 on the device"
        yield "$.train.optim", wrong, 'set zero_stage to 2 and offload to "none"'
    if train.precision == "float8":
        yield from _broken_float8_rules(spec, train)
    if train.sequence_parallel > 1:
        yield from _broken_parallel_rules(spec, train.sequence_parallel)
    if train.torch_compile:
        yield from _broken_compile_rules(train)
    micros = train.global_batch_size // train.per_device_train_batch_size
    groups = (spec.resources.gpus or 0) // train.sequence_parallel
    if groups and micros % groups:
        yield (
            "$.resources.gpus",
            f"`{spec.resources.gpus}` devices do not divide {train.global_batch_size} rows a step "
            f"into micro-batches of {train.per_device_train_batch_size}",
            f"choose {train.sequence_parallel} × a divisor of {micros}, or leave it out",
        )


def _broken_float8_rules(spec: JobSpec, train: TrainSpec) -> Iterator[_Broken]:
    place = "$.train.precision"
    if spec.model.dtype != "bfloat16":
        wrong = f"`float8` rounds products of bfloat16 weights; model.dtype is `{spec.model.dtype}`"
        yield place, wrong, 'set model.dtype to "bfloat16", or leave precision out'
    if train.zero_stage == 3:
        wrong = "`float8` scales whole rows of a weight, which ZeRO-3 divides among the devices"
        yield place, wrong, "set zero_stage to 2, or leave precision out"
    if train.lora is not None:
        wrong = "`float8` trains the weights themselves, adapters leave them as they are"
        yield place, wrong, "set lora to null, or leave precision out"


def _broken_compile_rules(train: TrainSpec) -> Iterator[_Broken]:
    place = "$.train.torch_compile"
    if train.use_liger_kernel is True:
        wrong = "the compiler fuses the operations that Liger's kernels would replace"
        yield place, wrong, 'set use_liger_kernel to "auto", or torch_compile to false'
    if train.zero_stage == 3:
        wrong = "ZeRO-3 fetches the weights of each module while it runs, which can't be compiled"
        yield place, wrong, "set zero_stage to 2, or torch_compile to false"
    if train.sequence_parallel > 1:
        wrong = "can't be used with `sequence_parallel`"
        yield place, wrong, "set one of the two back to its default"


def _broken_parallel_rules(spec: JobSpec, degree: int) -> Iterator[_Broken]:
    place = "$.train.sequence_parallel"
    if spec.resources.gpus is not None and spec.resources.gpus % degree:
        wrong = (
            f"groups of {degree} devices can't be made of `resources.gpus` {spec.resources.gpus}"
        )
        yield place, wrong, f"ask for a multiple of {degree} devices"
    if spec.model.attn_implementation in ("sdpa", "eager"):  # the others run our own lines
        wrong = f"`{spec.model.attn_implementation}` attention sees one device's tokens alone"
        yield place, wrong, 'set model.attn_implementation to "auto"'


def _is_revision(text: str) -> bool:
    parts = text.split("/")
    return _REVISION.fullmatch(text) is not None and not {"", ".", ".."}.intersection(parts)


def _broken_eval_rules(evaluation: EvalSpec) -> Iterator[_Broken]:
    for number, name in enumerate(evaluation.benchmarks):
        if _BENCHMARK.fullmatch(name) is None:
            hint = "at most 100 letters, digits and `_.+-`: it names files"
            yield f"$.eval.benchmarks[{number}]", f"`{name[:60]}` is no benchmark's name", hint
    if not evaluation.benchmarks:
        yield "$.eval.benchmarks", "is empty", "name one, or set `eval` to null"
    if len(set(evaluation.benchmarks)) < len(evaluation.benchmarks):
        yield "$.eval.benchmarks", "names a benchmark twice", None
    for name in evaluation.overrides:
        if name not in evaluation.benchmarks and not _is_alias(name, evaluation):
            yield f"$.eval.overrides.{name}", "is not among `benchmarks`", "check its spelling"
    if 0 in (evaluation.temperature, *(each.temperature for each in evaluation.overrides.values())):
        yield from _broken_greedy_rules(evaluation)
    yield from _broken_stop_rules(evaluation)
    if evaluation.backend == "hf":
        hint = 'set backend to "vllm", or leave it out'
        if evaluation.kv_cache_dtype != "auto":
            yield "$.eval.kv_cache_dtype", "is an option of vLLM; `backend` is `hf`", hint
        if not evaluation.enable_prefix_caching:
            yield "$.eval.enable_prefix_caching", "is an option of vLLM; `backend` is `hf`", hint
    token = evaluation.think_end_token
    if token is not None and not token.strip():
        hint = "set it to null if reasoning is not marked"
        yield "$.eval.think_end_token", "is empty", hint
    if token is not None and token.strip().isdigit():
        yield "$.eval.think_end_token", f"`{token}` looks like a token id", "give its text"


def _broken_stop_rules(evaluation: EvalSpec) -> Iterator[_Broken]:
    ruled = [name for name, each in evaluation.overrides.items() if each.stop_rule is not None]
    if evaluation.stop_rule is None and not ruled:
        return
    from jobspec.spec.benchmark_settings import sampling  # here, since few specs need it

    single = [n for n in evaluation.benchmarks if sampling(evaluation, n)["avg_k"] == 1]
    if evaluation.stop_rule is not None and len(single) == len(evaluation.benchmarks):
        wrong = "has no effect: no benchmark has more than one sample a question"
        yield "$.eval.stop_rule", wrong, "raise avg_k (in `overrides` of a benchmark), or remove it"
    for name in set(ruled).intersection(single):
        place = f"$.eval.overrides.{name}.stop_rule"
        yield place, "has no effect with one sample a question", "raise its avg_k, or remove it"


def _is_alias(name: str, evaluation: EvalSpec) -> bool:
    """Whether a name means one of the spec's benchmarks that is spelled otherwise there."""
    from jobspec.benchmarks.registry import canonical_name  # here, since few specs need it

    return canonical_name(name) in map(canonical_name, evaluation.benchmarks)


def _broken_greedy_rules(evaluation: EvalSpec) -> Iterator[_Broken]:
    from jobspec.spec.benchmark_settings import sampling  # here, since few specs need it

    for name in evaluation.benchmarks:
        settings = sampling(evaluation, name)
        if settings["temperature"] == 0 and settings["avg_k"] > 1:
            yield (
                "$.eval.temperature",
                f"0 with {settings['avg_k']} samples a question of `{name}`: all the same",
                f"sample with a temperature, or set avg_k to 1 (in `overrides.{name}`)",
            )
