"""The job spec: one immutable description of one experiment.

A spec says what is learned and how the result is scored, never on which machine: the global batch
is fixed, and gradient accumulation follows from the number of devices.

The default of a field is what a spec file without that field means. It never changes. To change
what new specs say, give the field a `NewDefault`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from jobspec.benchmarks import DEFAULT as DEFAULT_BENCHMARKS
from jobspec.records import phases

SCHEMA_VERSION = 1


class AddedLater:
    """Marks a field, or a group, that was added after the first release.

    At its default such a field is left out of the canonical bytes. So specs written before it
    existed keep their ids, and older workers, which refuse unknown fields, can still run them.
    """


ADDED_LATER = AddedLater()


class NewDefault(msgspec.Struct, frozen=True):
    """Marks a field for which `jobspec new` writes `value` rather than the field's default.

    The value is JSON. Specs written before keep their meaning, whether they say it or leave it out.
    """

    value: Any


Slug = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=1, le=10**9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**31)]
Tokens = Annotated[int, Meta(ge=1, le=10**7)]
Scalar = bool | int | float | str | None


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


# Fields of a row or a message that say where it comes from. They need not be listed in
# `data.ignore_fields`; any other field with text that the chat template does not render must be.
METADATA_FIELDS = frozenset(
    {
        *("id", "_id", "uid", "uuid", "row_id", "prompt_id", "message_id", "idx", "index"),
        *("source", "dataset", "subset", "split", "url", "license", "licence"),
        *("lang", "language", "created_at", "timestamp"),
    }
)


RowFormat = Literal["auto", "messages", "sharegpt", "prompt_completion", "alpaca"]


class SourceSpec(Spec, frozen=True, kw_only=True):
    """One file of a mixture, with its `repeat` or its `weight` among the sources."""

    path: Text
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,49}$")] | None = None
    sha256: Sha256 | None = None
    repeat: Annotated[float, Meta(gt=0, le=1000)] | None = None
    weight: Annotated[float, Meta(gt=0, le=10**6)] | None = None
    format: RowFormat | None = None


class DataSpec(Spec, frozen=True, kw_only=True):
    """What is trained on: rows of `messages`, in the file `path` or in several `sources`.

    `sha256` is filled in at enqueue.
    """

    path: Text | None = None
    sha256: Sha256 | None = None
    eval_split_ratio: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    max_train_samples: Count | None = None
    require_think: bool = False
    max_dropped_frac: Fraction = 0.05
    format: Annotated[RowFormat, ADDED_LATER] = "auto"
    ignore_fields: Annotated[tuple[Text, ...], ADDED_LATER] = ()
    sources: Annotated[tuple[SourceSpec, ...], ADDED_LATER] = ()
    allow_contaminated: Annotated[bool, ADDED_LATER] = False


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
    optim: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit"] = "adamw_torch_fused"
    adam_beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.95
    adam_epsilon: Annotated[float, Meta(gt=0, le=1)] = 1e-6
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.1
    max_grad_norm: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    seed: Seed = 42
    zero_stage: Literal[0, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = "none"
    gradient_checkpointing: Annotated[bool | Literal["auto"], NewDefault("auto")] = True
    packing: Annotated[bool | Literal["auto"], NewDefault("auto")] = False
    sequence_parallel: Annotated[int, Meta(ge=1, le=1024), ADDED_LATER] = 1
    use_liger_kernel: bool | Literal["auto"] = "auto"
    torch_compile: Annotated[bool, ADDED_LATER] = False
    precision: Annotated[Literal["float8"] | None, ADDED_LATER] = None
    lora: LoraSpec | None = None
    save_total_limit: Count = 8
    checkpoint_interval_s: Annotated[float, Meta(gt=0, le=10**7)] = 1800.0


class StopRule(Spec, frozen=True, kw_only=True):
    """When sampling a benchmark ends before `avg_k`: once the 95 % interval of its score over other
    samples is no wider than twice `half_width`. Every question always has the same number."""

    half_width: Annotated[float, Meta(gt=0, lt=0.5)]


class BenchmarkOverrides(Spec, frozen=True, kw_only=True):
    """Settings of one benchmark that differ from the spec's `eval` group."""

    avg_k: Annotated[int, Meta(ge=1, le=4096)] | None = None
    stop_rule: Annotated[StopRule | None, ADDED_LATER] = None
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
    stop_rule: Annotated[StopRule | None, ADDED_LATER] = None
    backend: Literal["auto", "vllm", "hf"] = "auto"
    kv_cache_dtype: Annotated[Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"], ADDED_LATER] = "auto"
    enable_prefix_caching: Annotated[bool, ADDED_LATER] = True
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
    share: Annotated[bool, ADDED_LATER] = True
    deterministic: Annotated[bool, ADDED_LATER] = False
    seed: Seed = 1234


SinkName = Literal["wandb", "tensorboard", "trackio"]


class TrackingSpec(Spec, frozen=True, kw_only=True):
    """Where the relay sends the job's rows."""

    project: Text = "jobspec"
    entity: Text | None = None
    group: Text | None = None
    sinks: Annotated[tuple[SinkName, ...], ADDED_LATER] = ("wandb",)


class ResourcesSpec(Spec, frozen=True, kw_only=True):
    """What a worker must have to take the job."""

    gpus: Annotated[int, Meta(ge=0, le=4096)] | None = None
    gpu_memory_gib: Annotated[float, Meta(gt=0, le=10**5)] | None = None


class JobSpec(Spec, frozen=True, kw_only=True):
    """One experiment. With `train` null nothing is trained: the model is scored as it is.

    Its id is computed from its canonical bytes (`jobspec.spec.identity`).
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
        """The names of the phases this job always runs, in order."""
        wanted = (phase for phase in phases.PHASES if not phase.optional)
        return tuple(each.name for each in wanted if getattr(self, each.section) is not None)
