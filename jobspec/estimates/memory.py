"""Predicts the memory that training needs on each device, and finds settings that would fit.

What is kept a weight follows from the engine: the weights in the model's dtype, and for each that
is trained an fp32 master copy, Adam's two moments and a gradient, divided among the ranks as the
ZeRO stage says. What comes and goes (buckets, the optimizer's copies, a layer's activations) was
fitted to peaks measured with the pinned versions; every job compares its own peak with this.

Source: Rajbhandari et al. 2020 (ZeRO) for what is divided; Korthikanti et al. 2022 for what a layer
keeps; DeepSpeed's and TRL's defaults for the sizes of buckets and of the head's tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from jobspec.models.decoder_shape import DecoderShape
from jobspec.spec.schema import LoraSpec, TrainSpec

GIB = 2**30
_BUCKET = 500_000_000  # elements DeepSpeed reduces at once
_SUB_GROUP = 1_000_000_000  # elements ZeRO-3 updates at once
_GROUPS, _GROUP = 16, 500_000_000  # ZeRO-2: parts of a device's weights, elements of its part
_TILE_TOKENS, _TILE, _CPU_TILE = 4096, 32768, 512  # what of the logits exists at once
_HEAP = 1.25  # what a CPU's allocator holds of activations for each byte in use


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """GiB on one device. `total` is the peak; `backward` and `step` never occur together."""

    base: float
    weights: float
    states: float
    backward: float
    step: float

    @property
    def total(self) -> float:
        return self.base + self.weights + self.states + max(self.backward, self.step)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a prediction is made for, beside the model.

    Attributes:
        tokens: of a device's longest micro-batch.
        base_gib: what is taken before the model is there.
        recomputed_layers: how many layers gradient checkpointing recomputes; None for what the spec
            says, and if that is "auto", all.
    """

    train: TrainSpec
    dtype: str
    devices: int
    tokens: int
    on_gpu: bool = True
    base_gib: float = 0.0
    recomputed_layers: int | None = None


def predict(shape: DecoderShape, setting: Setting) -> Memory:
    """The memory that training takes on each device."""
    train, width = setting.train, 4 if setting.dtype == "float32" else 2
    trained = shape.parameters if train.lora is None else shape.adapted(train.lora.r)
    shared = 1 if train.zero_stage == 0 else setting.devices
    weights = width * shape.parameters
    states = _states(train, width) * trained / shared
    step = _step(shape, setting, width, trained) / shared
    live = _live(shape, setting, width, trained)
    if train.zero_stage == 3:
        weights /= shared
    if train.offload != "none" and setting.on_gpu:
        states = step = width * trained / shared
        weights = 0.0 if train.offload == "all" else weights
    activations = _activations(shape, setting, width) * (1.0 if setting.on_gpu else _HEAP)
    return Memory(
        base=setting.base_gib,
        weights=weights / GIB,
        states=states / GIB,
        backward=(live + activations) / GIB,
        step=step / GIB,
    )


def fitting(shape: DecoderShape, setting: Setting, usable_gib: float) -> list[str]:
    """Return changes that would make training fit: the mildest of each kind."""
    found: dict[str, str] = {}
    for kind, words, other in _others(setting):
        if kind not in found and predict(shape, other).total <= usable_gib:
            found[kind] = words
    return list(found.values())


def state_bytes(train: TrainSpec) -> float:
    """Bytes a trained weight of its copy in float32 and of Adam's two moments.

    In 8 bits, the moments of 256 weights share a scale.
    """
    return 4 + (2 * (1 + 4 / 256) if train.optim == "adamw_8bit" else 8)


def _states(train: TrainSpec, width: int) -> float:
    """Bytes a trained weight that stay: master copy, two moments, gradient."""
    if train.zero_stage == 0:
        return state_bytes(train) + (width if width == 2 else 0)
    # ZeRO-3: seen 2.5 more at one rank and at two.
    return state_bytes(train) + width + (2.5 if train.zero_stage == 3 else 0)


def group_elements(trained: int, devices: int) -> int:
    """The most elements of an optimizer's group under ZeRO-2, which updates group after group.

    Each device updates its part of a group. The more devices, the fewer groups: at the borders of
    the parts, two devices keep the same gradients.
    """
    return devices * max(1, min(trained // _GROUPS, _GROUP))


def _step(shape: DecoderShape, setting: Setting, width: int, trained: int) -> float:
    """Bytes that the optimizer's step adds on all devices: gradients flat, and in fp32."""
    train, devices = setting.train, setting.devices
    if train.zero_stage == 0:
        return 4.0 * trained
    unfused = (2 if setting.on_gpu else 8) if train.optim == "adamw_torch" else 0
    each = 4.5 + (width if width == 2 else 0) + unfused
    if train.zero_stage == 3:
        return min(each * trained, 6 * _SUB_GROUP * devices)
    # The embedding is a group of its own, if it is larger, whose gradient is flat already.
    embedding = (4 + unfused) * shape.head if train.lora is None else 0
    return max(each * min(trained, group_elements(trained, devices)), embedding)


def _live(shape: DecoderShape, setting: Setting, width: int, trained: int) -> float:
    """Bytes of the buckets gradients are reduced in and, under ZeRO-3, of weights gathered."""
    train = setting.train
    if train.zero_stage == 2 and setting.devices == 1 and train.offload == "none":
        return 0.0 if train.lora else float(width * shape.head)  # the gradient of the head
    bucket = width * min(trained, _BUCKET)
    if train.zero_stage < 3:
        return (2 if train.zero_stage else 1) * bucket
    return 3 * bucket + width * min(trained, _SUB_GROUP)


def _activations(shape: DecoderShape, setting: Setting, width: int) -> float:
    """Bytes of activations at the peak of a micro-batch's backward pass."""
    tokens, lora = setting.tokens, setting.train.lora
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = width * (6 * shape.hidden + 7 * queries + 6 * keys + 4 * shape.intermediate)
    falling = width * (shape.hidden + 2 * shape.intermediate)  # gradients on their way
    recomputed = setting.recomputed_layers
    if recomputed is None:
        recomputed = shape.layers if setting.train.gradient_checkpointing else 0
    kept = recomputed * width * shape.hidden + (shape.layers - recomputed) * layer
    if not recomputed:
        layer = 0
    entries = min(shape.vocabulary, _TILE if setting.on_gpu else _CPU_TILE)
    tile = 4 * min(tokens, _TILE_TOKENS) * entries
    tiles = 2 if setting.on_gpu else 5.8  # without the fused kernel each pass leaves its own
    head = tiles * tile + (4 * shape.head if lora is None else 0) + 8 * shape.hidden * tokens
    return tokens * kept + max(tokens * (layer + falling) + _casts(shape, setting), head)


def _casts(shape: DecoderShape, setting: Setting) -> float:
    """Bytes that come and go when a product's larger factor is rounded to float8.

    What is kept is in the model's dtype, as without float8. Not measured on a device yet: counted
    in torchao's operations, which make two copies in float32 before the one in 8 bits. Compiled,
    only that one is written, and once more for the other dimension's scales.
    """
    if setting.train.precision != "float8":
        return 0.0
    each = 2 if setting.train.torch_compile else 9
    return float(each * max(setting.tokens, shape.hidden) * shape.intermediate)


def _others(setting: Setting) -> Iterator[tuple[str, str, Setting]]:
    """Settings that might fit: a description of each kind and its settings, the mildest first."""
    train, devices = setting.train, setting.devices
    if not train.gradient_checkpointing:
        changed = _changed(setting, "checkpointing", gradient_checkpointing=True)
        yield *changed[:2], msgspec.structs.replace(changed[2], recomputed_layers=None)
    if train.per_device_train_batch_size > 1 and not train.packing:
        yield _changed(setting, "rows", per_device_train_batch_size=1)
    full = train.lora is None
    if train.zero_stage != 3 and full and devices > 1:
        yield _changed(setting, "stage", zero_stage=3)
    for times in (2, 4, 8, 16):
        if devices * times <= train.global_batch_size:
            yield _changed(setting, "gpus", times)
            if train.zero_stage != 3 and full:
                yield _changed(setting, "gpus", times, zero_stage=3)
    if train.offload == "none" and train.zero_stage:
        yield _changed(setting, "offload", offload="optimizer")
        if full:
            yield _changed(setting, "offload", zero_stage=3, offload="all")
    for length in (train.max_length // 2, train.max_length // 4):
        yield _changed(setting, "length", max_length=length)
    if full and train.zero_stage == 2:
        yield _changed(setting, "optimizer", optim="adamw_8bit", offload="none")
    if full:
        yield _changed(setting, "lora", lora=LoraSpec(), zero_stage=min(train.zero_stage, 2))


def _changed(
    setting: Setting, kind: str, times: int = 1, **fields: Any
) -> tuple[str, str, Setting]:
    """`times` as many devices, and other fields of `train`; with the words a person would type."""
    now = {name: getattr(setting.train, name) for name in fields}
    said = {name: value for name, value in fields.items() if now[name] != value}
    words = [f"train.{name}={_spelled(value)}" for name, value in said.items()]
    if times > 1:
        words.insert(0, f"--gpus {times * setting.devices}")
    train = msgspec.structs.replace(setting.train, **fields)
    tokens = min(setting.tokens, micro_batch_tokens(train))
    more = times * setting.devices
    return (
        kind,
        " with ".join(words),
        msgspec.structs.replace(setting, train=train, devices=more, tokens=tokens),
    )


def _spelled(value: Any) -> str:
    return '{"r": 16}' if isinstance(value, LoraSpec) else msgspec.json.encode(value).decode()


def micro_batch_tokens(train: TrainSpec) -> int:
    """The most tokens that a device's micro-batch may have."""
    rows = 1 if train.packing else train.per_device_train_batch_size
    parts = train.sequence_parallel
    return -(-rows * train.max_length // parts)
