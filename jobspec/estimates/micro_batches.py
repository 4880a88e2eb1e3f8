"""Chooses how large micro-batches are and how many layers are recomputed, from predicted memory.

Neither changes a step: it always trains the same rows, with the same loss up to the order of
additions. So "auto" takes the fastest choice that fits: as few recomputed layers as possible, then
micro-batches as large as make a difference.

Recomputed are the first layers. In the backward pass the activations of the last ones are freed
before a first layer needs room for its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec

from jobspec.estimates import memory
from jobspec.estimates.memory import Setting
from jobspec.models.decoder_shape import DecoderShape
from jobspec.records.manifest import MicroBatchPlan
from jobspec.spec.schema import TrainSpec

# More tokens than this make a device no faster: its matrix products are large enough.
GPU_TOKENS, CPU_TOKENS = 8192, 2048
# How much of the usable memory to spend on speed: predictions have been off by up to 6 %.
SPENT_FRAC = 0.93
# A micro-batch of fewer tokens than this is so slow that recomputing layers costs less.
FEW_GPU_TOKENS, FEW_CPU_TOKENS = 2048, 512


def choose(
    shape: DecoderShape | None,
    setting: Setting,
    *,
    longest: int,
    layers: int,
    usable_gib: float,
    least_memory: bool = False,
) -> MicroBatchPlan:
    """Choose the micro-batches of a run, and the layers that it recomputes.

    Args:
        shape: the model's; None if its memory can't be predicted. Then "auto" takes the least.
        setting: what is known of the run; its `tokens` and `recomputed_layers` are not used.
        longest: tokens of the longest row.
        layers: of the model.
        usable_gib: what tensors can use on each device, the same for all ranks.
        least_memory: take the least memory, because an attempt ran out of it.
    """
    counts = _layer_counts(setting.train, layers)
    budgets = list(_budgets(setting.train, longest, on_gpu=setting.on_gpu))
    least = MicroBatchPlan(
        tokens=None if budgets[-1] is None else longest,
        recomputed_layers=counts[-1],
        layers=layers,
        least_memory=True,
    )
    if least_memory or shape is None:
        return least
    for count, budget in itertools.product(counts, budgets):
        plan = MicroBatchPlan(tokens=budget, recomputed_layers=count, layers=layers)
        if predict(shape, setting, plan, longest).total <= SPENT_FRAC * usable_gib:
            return plan
    return least


def predict(
    shape: DecoderShape, setting: Setting, plan: MicroBatchPlan, longest: int
) -> memory.Memory:
    """The memory that a run takes with these micro-batches."""
    train = setting.train
    tokens = plan.tokens or train.per_device_train_batch_size * longest
    shared = -(-tokens // train.sequence_parallel)
    found = msgspec.structs.replace(
        setting, tokens=shared, recomputed_layers=plan.recomputed_layers
    )
    return memory.predict(shape, found)


def is_adjustable(train: TrainSpec) -> bool:
    """Whether there may be a choice that takes less memory than another."""
    return train.packing is not False or train.gradient_checkpointing == "auto"


def _budgets(train: TrainSpec, longest: int, *, on_gpu: bool) -> Iterator[int | None]:
    """Tokens that a micro-batch may have, largest first; None: its rows are counted instead."""
    if train.packing is False:
        yield None
        return
    most, few = (GPU_TOKENS, FEW_GPU_TOKENS) if on_gpu else (CPU_TOKENS, FEW_CPU_TOKENS)
    budget = train.max_length if train.packing is True else most
    while budget > max(longest, few):
        yield budget
        budget //= 2
    yield max(longest, budget) if longest <= few else longest


def _layer_counts(train: TrainSpec, layers: int) -> range:
    if train.gradient_checkpointing == "auto":
        return range(layers + 1)
    count = layers if train.gradient_checkpointing else 0
    return range(count, count + 1)
