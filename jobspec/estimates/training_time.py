"""What training a spec takes: optimizer steps, memory on each device, hours.

Memory is predicted from the model's sizes (`jobspec.estimates.memory`). Hours come from a finished
job of the same model on the same device in this queue; without one, from an assumed MFU, and the
estimate says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from jobspec.errors import ModelError, SpecError
from jobspec.estimates import history, memory, micro_batches
from jobspec.estimates.memory import Memory, Setting
from jobspec.models import config, decoder_shape
from jobspec.models.decoder_shape import DecoderShape
from jobspec.models.devices import Device
from jobspec.models.directory import locate
from jobspec.records.manifest import MicroBatchPlan
from jobspec.records.reports import RowReport
from jobspec.spec.schema import JobSpec, TrainSpec
from jobspec.storage.layout import RootPaths

ASSUMED_MFU = 0.35  # published 8B runs on 8 cards reach 33–39 %


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """The number of optimizer steps, and of forward passes of one device in an epoch.

    Packing does not change the steps: a step is always `global_batch_size` rows.
    """

    optimizer_steps: int
    passes: int | None = None
    packed_passes: int | None = None


class TrainingEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What training takes on `gpus` devices. Memory is that of one device; null means unknown."""

    device: str
    gpus: int
    usable_gib: float
    memory: Memory | None = None
    memory_gib: float | None = None
    micro_batches: MicroBatchPlan | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    speed_of: str | None = None
    assumed_mfu: float | None = None
    hours: float | None = None


def steps(train: TrainSpec, rows: RowReport) -> Steps:
    """Count the optimizer steps of a run."""
    per_epoch = math.ceil(rows.rows_train / train.global_batch_size)
    return Steps(
        optimizer_steps=math.ceil(train.num_train_epochs * per_epoch),
        passes=rows.passes.unpacked,
        packed_passes=rows.passes.packed,
    )


def estimate(
    spec: JobSpec, root: Path, device: Device, gpus: int, rows: RowReport | None
) -> TrainingEstimate | None:
    """Predict the memory and the hours of training on `gpus` devices.

    Args:
        rows: what the row check counted; without it there are no hours.

    Returns:
        None for a spec that trains nothing.

    Raises:
        SpecError: it does not fit; the hint says which settings would. Or the device can't do it.
    """
    if spec.train is None:
        return None
    if spec.train.precision == "float8" and not device.multiplies_float8:
        raise SpecError(
            f"`float8` needs a GPU of NVIDIA's Hopper generation or a newer one, not {device.name}",
            place="$.train.precision",
            hint="leave precision out, or use H100, H200, GH200 or B200",
        )
    shape = model_shape(spec, root)
    estimated = TrainingEstimate(device=device.name, gpus=gpus, usable_gib=device.usable_gib)
    if shape is None:
        return estimated
    setting, plan = _setting(spec, shape, device, gpus, rows)
    predicted = memory.predict(shape, setting)
    if predicted.total > device.usable_gib:
        raise _too_large(shape, setting, predicted, device)
    estimated = msgspec.structs.replace(
        estimated, memory=predicted, memory_gib=predicted.total, micro_batches=plan
    )
    return _with_hours(estimated, spec, shape, device, root, rows)


def model_shape(spec: JobSpec, root: Path) -> DecoderShape | None:
    """Return the sizes of a spec's model, from its config.json or the table of known models."""
    directory = locate(spec.model, RootPaths(root))
    try:
        shape = None if directory is None else config.read(directory).shape
    except ModelError:
        shape = None
    return shape or decoder_shape.known(spec.model.name)


def _setting(
    spec: JobSpec, shape: DecoderShape, device: Device, gpus: int, rows: RowReport | None
) -> tuple[Setting, MicroBatchPlan]:
    """What memory is predicted for, with the micro-batches that training would choose."""
    train = spec.train
    assert train is not None
    longest = train.max_length
    if rows is not None and rows.length_percentiles:
        longest = min(longest, round(rows.length_percentiles["max"]))
    most = memory.micro_batch_tokens(train)
    setting = Setting(train=train, dtype=spec.model.dtype, devices=gpus, tokens=most)
    plan = micro_batches.choose(
        shape, setting, longest=longest, layers=shape.layers, usable_gib=device.usable_gib
    )
    if plan.tokens is not None:
        most = -(-plan.tokens // train.sequence_parallel)
    if rows is not None and rows.longest_micro_batch and train.packing != "auto":
        most = min(most, rows.longest_micro_batch)
    changed = msgspec.structs.replace(
        setting, tokens=most, recomputed_layers=plan.recomputed_layers
    )
    return changed, plan


def _too_large(
    shape: DecoderShape, setting: Setting, predicted: Memory, device: Device
) -> SpecError:
    would = memory.fitting(shape, setting, device.usable_gib)
    some = f"would fit: {'; or '.join(would)}" if would else "no setting would: use other devices"
    many = f"each of {setting.devices}" if setting.devices > 1 else "one"
    return SpecError(
        f"training needs {predicted.total:.1f} GiB on {many} {device.name}, which has "
        f"{device.usable_gib:.1f} of its {device.memory_gib:.1f} GiB for it",
        place="$.train",
        hint=some,
    )


def _with_hours(
    estimated: TrainingEstimate,
    spec: JobSpec,
    shape: DecoderShape,
    device: Device,
    root: Path,
    rows: RowReport | None,
) -> TrainingEstimate:
    if rows is None or not rows.train.tokens or spec.train is None:
        return estimated
    tokens, trained, count = rows.train.tokens, rows.train.trained_tokens, rows.train.rows
    measured = next(_measured(spec.model.name, device, root), None)
    if measured is not None:
        rate, speed_of, assumed = measured[1] * estimated.gpus, measured[0], None
    elif device.peak is not None:
        work = 3 * shape.forward([round(tokens / count)] * count, trained)
        rate, speed_of = tokens * ASSUMED_MFU * device.peak * estimated.gpus / work, None
        assumed = ASSUMED_MFU
    else:
        return estimated
    total = round(tokens * spec.train.num_train_epochs)
    return msgspec.structs.replace(
        estimated,
        tokens=total,
        tokens_per_second=rate,
        speed_of=speed_of,
        assumed_mfu=assumed,
        hours=total / rate / 3600,
    )


def _measured(model: str, device: Device, root: Path) -> Iterator[tuple[str, float]]:
    """Yield the job id and the tokens a second and device of jobs on such devices."""
    for job, training in history.trainings(model, root):
        rate = training.tokens_per_second_per_device
        if rate is not None and device.name in training.engine.device:
            yield job, rate
