"""`manifest.json`: what an attempt ran on, from which code and which inputs.

A field that defaults to `UNSET` is left out of the file where it does not apply.
"""

from __future__ import annotations

from typing import Any

import msgspec

from jobspec.records.base import UNSET, Record, UnsetType


class CodeVersion(Record, frozen=True, kw_only=True):
    """The commit of the code; empty outside a git checkout."""

    commit: str | UnsetType = UNSET
    dirty: bool | UnsetType = UNSET


class UsedDevices(Record, frozen=True, kw_only=True):
    """The devices of one node: `kind` is `cuda` or `cpu`."""

    kind: str = "cpu"
    name: str | None = None
    count: int = 0


class Seeds(Record, frozen=True, kw_only=True):
    """The spec's seeds; null for a phase that the job does not have."""

    train: int | None = None
    eval: int | None = None


class TrainingInputs(Record, frozen=True, kw_only=True):
    """Which rows were trained on and how they were rendered; empty before `prepare` is done."""

    key: str | UnsetType = UNSET
    data_sha256: str | UnsetType = UNSET
    template_sha256: str | UnsetType = UNSET
    tokenizer_sha256: str | UnsetType = UNSET
    rows_train: int | UnsetType = UNSET
    rows_eval: int | UnsetType = UNSET


class EngineSummary(Record, frozen=True, kw_only=True):
    """What trained the model; empty before `train` is done."""

    name: str | UnsetType | None = msgspec.field(default=UNSET, name="class")
    zero_stage: int | UnsetType | None = UNSET
    optimizer: str | UnsetType | None = UNSET
    dtype: str | UnsetType | None = UNSET
    attention: str | UnsetType | None = UNSET
    kernels: str | UnsetType | None = UNSET
    rows: str | UnsetType | None = UNSET
    rows_reason: str | UnsetType | None = UNSET
    weights: int | UnsetType | None = UNSET
    trained_weights: int | UnsetType | None = UNSET
    unused: tuple[str, ...] | UnsetType = UNSET
    micro_batch_tokens: int | UnsetType | None = UNSET
    recomputed_layers: int | UnsetType | None = UNSET
    float8: str | UnsetType | None = UNSET


class MicroBatchPlan(Record, frozen=True, kw_only=True):
    """`micro_batches.json`: the micro-batches of an attempt's training, the same on all ranks.

    Attributes:
        tokens: the most tokens of a micro-batch, though a longer row gets one of its own; null if
            it has `per_device_train_batch_size` rows instead.
        recomputed_layers: how many of the model's `layers` gradient checkpointing recomputes.
        least_memory: it takes the least memory that the spec allows, because more did not fit, or
            is not known to.
    """

    tokens: int | None = None
    recomputed_layers: int = 0
    layers: int = 0
    least_memory: bool = False


class PlannedBatch(Record, frozen=True, kw_only=True):
    """How the global batch is spread over the ranks.

    `least_memory`: an attempt ran out of memory, so training takes as little as the spec allows.
    """

    world_size: int = 1
    nodes: int = 1
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    least_memory: bool = False


class Manifest(Record, frozen=True, kw_only=True):
    """The provenance of an attempt.

    Attributes:
        cpu: the model of the CPU.
        deepspeed: the configuration of the engine; null for a job that trains nothing.
        plan: likewise.
    """

    worker: str = ""
    host: str = ""
    python: str = ""
    kernel: str = ""
    packages: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    code: CodeVersion = CodeVersion()
    cpu: str = ""
    image: str | None = None
    image_sha256: str | None = None
    device: UsedDevices = UsedDevices()
    driver: str | None = None
    seeds: Seeds = Seeds()
    inputs: TrainingInputs = TrainingInputs()
    engine: EngineSummary = EngineSummary()
    deepspeed: dict[str, Any] | None = None
    plan: PlannedBatch | None = None

    @property
    def gpus(self) -> int:
        """The GPUs that the attempt used, on all its nodes; 0 on CPUs."""
        if self.device.kind == "cpu":
            return 0
        return self.device.count * (self.plan.nodes if self.plan is not None else 1)
