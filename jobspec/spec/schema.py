"""The job spec: one immutable description of one experiment, its canonical bytes and its id.

A spec says what is to be learned and how it is scored, never on which machine: the global batch is
fixed, accumulation follows from the devices found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from jobspec.benchmarks import DEFAULT as DEFAULT_BENCHMARKS
from jobspec.errors import SpecError

SCHEMA_VERSION = 1
# All there are, in the order they run; "convert" where a resume state is of other devices.
PHASES = ("prepare", "convert", "train", "eval")

Slug = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=1, le=10**9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**31)]
Tokens = Annotated[int, Meta(ge=1, le=10**7)]
Scalar = bool | int | float | str | None
_Broken = tuple[str, str, str | None]  # JSON path, what is wrong, hint
# What becomes the name of a file or a directory must be one; `$` in a pattern allows a newline.
_BENCHMARK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
# Fields that came after ids were first given: not written where they have their default, so that
# what was enqueued before keeps its id, and workers that do not know them can still do the job.
_LATER = {"train": ("sequence_parallel",)}


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything a person writes: unknown fields are refused, so no typo is silent."""


class ModelSpec(Spec, frozen=True, kw_only=True):
    """Which weights are tuned (`name`: a hub name or a directory) and how they are loaded."""

    name: Text
    revision: Text | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    attn_implementation: Literal[
        "auto", "flash_attention_2", "flash_attention_3", "flash_attention_4", "sdpa", "eager"
    ] = "auto"
    chat_template: Text | None = None
    trust_remote_code: bool = False


class DataSpec(Spec, frozen=True, kw_only=True):
    """What is trained on: JSONL rows of `messages`. `sha256` is filled in at enqueue."""

    path: Text
    sha256: Sha256 | None = None
    eval_split_ratio: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    max_train_samples: Count | None = None
    require_think: bool = False
    max_dropped_frac: Fraction = 0.05


class LoraSpec(Spec, frozen=True, kw_only=True):
    """Low-rank adapters instead of full fine-tuning."""

    r: Annotated[int, Meta(ge=1, le=4096)] = 16
    alpha: Annotated[int, Meta(ge=1, le=65536)] = 32
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    target_modules: tuple[Text, ...] | Literal["all-linear"] = "all-linear"


class TrainSpec(Spec, frozen=True, kw_only=True):
    """How it is trained; keys keep their TRL / Transformers / DeepSpeed spelling."""

    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 1e-5
    num_train_epochs: Annotated[float, Meta(gt=0, le=1000)] = 8.0
    max_length: Annotated[int, Meta(ge=8, le=10**6)] = 8192
    global_batch_size: Annotated[int, Meta(ge=1, le=65536)] = 8
    per_device_train_batch_size: Annotated[int, Meta(ge=1, le=4096)] = 1
    lr_scheduler_type: Literal[
        "constant_with_warmup", "constant", "linear", "cosine", "polynomial", "inverse_sqrt"
    ] = "constant_with_warmup"
    warmup_ratio: Fraction = 0.03
    optim: Literal["adamw_torch_fused", "adamw_torch"] = "adamw_torch_fused"
    adam_beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.95
    adam_epsilon: Annotated[float, Meta(gt=0, le=1)] = 1e-6
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.1
    max_grad_norm: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    seed: Seed = 42
    zero_stage: Literal[0, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = "none"
    gradient_checkpointing: bool = True
    packing: bool = False
    sequence_parallel: Annotated[int, Meta(ge=1, le=1024)] = 1
    use_liger_kernel: bool | Literal["auto"] = "auto"
    lora: LoraSpec | None = None
    save_total_limit: Count = 8
    checkpoint_interval_s: Annotated[float, Meta(gt=0, le=10**7)] = 1800.0


class BenchmarkOverrides(Spec, frozen=True, kw_only=True):
    """Settings of one benchmark that differ from the spec's `eval` group."""

    avg_k: Annotated[int, Meta(ge=1, le=4096)] | None = None
    max_gen_toks: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=10**6)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    num_fewshot: Annotated[int, Meta(ge=0, le=100)] | None = None
    limit: Count | None = None


class EvalSpec(Spec, frozen=True, kw_only=True):
    """How it is scored. For the AIME benchmarks `avg_k` answers are drawn for each question; other
    benchmarks have a number of their own, which `overrides` can change."""

    benchmarks: tuple[Text, ...] = DEFAULT_BENCHMARKS
    benchmark_dir: Text | None = None
    protocol: Literal["published", "stock"] = "published"
    avg_k: Annotated[int, Meta(ge=1, le=4096)] = 32
    backend: Literal["auto", "vllm", "hf"] = "auto"
    max_gen_toks: Tokens = 32768
    temperature: Annotated[float, Meta(ge=0, le=5)] = 0.6
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Meta(ge=1, le=10**6)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    think_end_token: Text | None = "</think>"
    chat_template_kwargs: dict[str, Scalar] = {}
    num_fewshot: Annotated[int, Meta(ge=0, le=100)] | None = None
    overrides: dict[str, BenchmarkOverrides] = {}
    limit: Count | None = None
    log_samples: bool = False
    checkpoints: Literal["final", "all"] = "final"
    seed: Seed = 1234


class TrackingSpec(Spec, frozen=True, kw_only=True):
    """Where the relay sends the job's rows (W&B)."""

    project: Text = "jobspec"
    entity: Text | None = None
    group: Text | None = None


class ResourcesSpec(Spec, frozen=True, kw_only=True):
    """What a worker must have to take the job."""

    gpus: Annotated[int, Meta(ge=0, le=4096)] | None = None
    gpu_memory_gib: Annotated[float, Meta(gt=0, le=10**5)] | None = None


class JobSpec(Spec, frozen=True, kw_only=True):
    """One experiment. With `train` null nothing is trained: the model is scored as it is.

    Equality of `canonical()` bytes is equality of experiments; `job_id()` is made from them.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Slug
    notes: Annotated[str, Meta(max_length=10000)] = ""
    model: ModelSpec
    data: DataSpec | None = None
    train: TrainSpec | None = TrainSpec()
    eval: EvalSpec | None = EvalSpec()
    tracking: TrackingSpec = TrackingSpec()
    resources: ResourcesSpec = ResourcesSpec()

    def phases(self) -> tuple[str, ...]:
        """The phases this job runs, in order."""
        trained = ("prepare", "train") if self.train is not None else ()
        return (*trained, "eval") if self.eval is not None else trained


def canonical(spec: JobSpec) -> bytes:
    """The spec's one spelling: every field but later ones at their default, dictionaries sorted,
    indented for people."""
    plain = msgspec.to_builtins(spec, order="deterministic")
    for name, later in _LATER.items():
        group = getattr(spec, name)
        for field in later if group is not None else ():
            if getattr(group, field) == getattr(type(group)(), field):
                del plain[name][field]
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def job_id(name: str, data: bytes) -> str:
    """`<slug>-<first 10 hex digits of SHA-256 of the stored bytes>`; fits a file name."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-") or "job"
    return f"{slug}-{digest(data)}"


def digest(data: bytes) -> str:
    """The part of a job's id that its stored bytes must answer to."""
    return hashlib.sha256(data).hexdigest()[:10]


def decode(data: bytes, *, file: str | Path | None = None) -> JobSpec:
    """Read a spec and check it within itself.

    Raises:
        SpecError: with the file and the JSON path of what is wrong.
    """
    try:
        spec = msgspec.json.decode(data, type=JobSpec)
    except msgspec.ValidationError as error:
        raise _spec_error(str(error), data, file) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "write specs with `jobspec new`"
        raise SpecError(f"not valid JSON: {error}", file=file, hint=hint) from error
    check(spec, file=file)
    return spec


def load(path: str | Path) -> JobSpec:
    """Read and check a spec file. Raises SpecError, naming the file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        hint = "is the path right? `jobspec new` writes specs and prints where"
        raise SpecError(f"can't be read: {error.strerror}", file=path, hint=hint) from error
    return decode(data, file=path)


def schema() -> dict[str, Any]:
    """The JSON Schema of a spec, for editors and other languages."""
    return msgspec.json.schema(JobSpec)


def check(spec: JobSpec, *, file: str | Path | None = None) -> None:
    """The rules that no single field can state. Raises SpecError at the first one broken."""
    for place, wrong, hint in _broken_rules(spec):
        raise SpecError(wrong, file=file, place=place, hint=hint)


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
    if spec.train is not None:
        yield from _broken_train_rules(spec, spec.train)
    if spec.eval is not None:
        yield from _broken_eval_rules(spec.eval)


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
    if train.sequence_parallel > 1:
        yield from _broken_parallel_rules(spec, train.sequence_parallel)
    micros = train.global_batch_size // train.per_device_train_batch_size
    groups = (spec.resources.gpus or 0) // train.sequence_parallel
    if groups and micros % groups:
        yield (
            "$.resources.gpus",
            f"`{spec.resources.gpus}` devices do not divide {train.global_batch_size} rows a step "
            f"into micro-batches of {train.per_device_train_batch_size}",
            f"choose {train.sequence_parallel} × a divisor of {micros}, or leave it out",
        )


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
    token = evaluation.think_end_token
    if token is not None and token.strip().isdigit():
        yield "$.eval.think_end_token", f"`{token}` looks like a token id", "give its text"


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


def _spec_error(message: str, data: bytes, file: str | Path | None) -> SpecError:
    what, _, place = message.partition(" - at `")
    place = place.rstrip("`") or "$"
    hint = "`jobspec schema` prints every field with its limits"
    unknown = re.search(r"unknown field `([^`]+)`", what)
    if unknown is not None:
        import difflib  # here, since only mistakes need it

        near = difflib.get_close_matches(unknown.group(1), _all_fields(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else hint
    elif "missing required" not in what:
        what += f", got `{_value_at(data, place)}`"
    return SpecError(what, file=file, place=place, hint=hint)


def _value_at(data: bytes, place: str) -> str:
    """The JSON text found at a path such as `$.eval.benchmarks[0]`; shortened for a message."""
    value: Any = msgspec.json.decode(data)
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", place):
        try:
            value = value[key or int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            break
    # Whatever it is, it may be a key: nothing that long is told whole.
    text = re.sub(
        r"[\w-]{30,}", lambda long: f"{long[0][:4]}…", msgspec.json.encode(value).decode()
    )
    return text if len(text) <= 60 else text[:57] + "..."


def _all_fields() -> list[str]:
    kinds = Spec.__subclasses__()
    return sorted({field for kind in kinds for field in kind.__struct_fields__})
