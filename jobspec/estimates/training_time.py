"""What training a spec will take: optimizer steps, memory on a device, hours.

Memory is predicted from the model's shape (`jobspec.estimates.memory`). Hours are those of a
finished job of
the same model on the same device in this root; where there is none, those of an assumed MFU, which
is said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from jobspec.checks.check import Checked, fetched_config, is_path
from jobspec.checks.rows import RowReport
from jobspec.errors import JobspecError, SpecError
from jobspec.estimates import memory
from jobspec.estimates.memory import Memory, Setting
from jobspec.models import config as shape
from jobspec.models.config import Shape
from jobspec.models.devices import Device
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.base import Record, State
from jobspec.spec.schema import JobSpec, TrainSpec
from jobspec.storage.layout import RootPaths

ASSUMED_MFU = 0.35  # published 8B runs on 8 cards reach 33–39 %
_MOST_JOBS = 200


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """How often the optimizer steps, and the forward passes an epoch that one device makes for it.

    Steps are the same with packing and without: a step is `global_batch_size` rows.
    """

    optimizer_steps: int
    passes: int | None = None
    packed_passes: int | None = None


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """What training takes on `gpus` devices; null is not known. Memory is a device's."""

    device: str
    gpus: int
    usable_gib: float
    memory: Memory | None = None
    memory_gib: float | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    speed_of: str | None = None
    assumed_mfu: float | None = None
    hours: float | None = None


class _Engine(Record, frozen=True, kw_only=True):
    device: str = ""
    world_size: int = 1


class _Trained(Record, frozen=True, kw_only=True):
    """Of a finished job's `train.json`, what tells how fast it was."""

    tokens_per_second: float | None = None
    engine: _Engine = _Engine()


def steps(train: TrainSpec, rows: RowReport) -> Steps:
    """The optimizer steps of a run."""
    per_epoch = math.ceil(rows.rows_train / train.global_batch_size)
    return Steps(
        optimizer_steps=math.ceil(train.num_train_epochs * per_epoch),
        passes=rows.passes.get("unpacked"),
        packed_passes=rows.passes.get("packed"),
    )


def on_devices(one: Checked, root: Path, device: Device, gpus: int | None = None) -> Checked:
    """A checked spec with what training takes on these devices; unchanged if it trains nothing.

    Args:
        gpus: how many; default those the spec asks for, or one.

    Raises:
        JobspecError: it does not fit; the hint says which settings would.
    """
    if one.spec.train is None:
        return one
    try:
        told = _estimate(one.spec, root, device, gpus or one.spec.resources.gpus or 1, one.rows)
    except SpecError as error:
        raise SpecError(error.message, hint=error.hint, file=one.file, place=error.place) from error
    return dataclasses.replace(one, training=told)


def _estimate(
    spec: JobSpec, root: Path, device: Device, gpus: int, rows: RowReport | None
) -> Training:
    assert spec.train is not None
    found = model_shape(spec, root)
    told = Training(device=device.name, gpus=gpus, usable_gib=device.usable_gib)
    if found is None:
        return told
    setting = _setting(spec.train, spec.model.dtype, gpus, rows)
    predicted = memory.predict(found, setting)
    if predicted.total > device.usable_gib:
        raise _too_large(found, setting, predicted, device)
    told = msgspec.structs.replace(told, memory=predicted, memory_gib=predicted.total)
    return _with_hours(told, spec, found, device, root, rows)


def model_shape(spec: JobSpec, root: Path) -> Shape | None:
    """The shape of a spec's model, from its config.json or the table of known ones."""
    name = spec.model.name
    config = Path(name) / "config.json" if is_path(name) else fetched_config(name, root)
    return (shape.read(config) if config is not None else None) or shape.known(name)


def _setting(train: TrainSpec, dtype: str, gpus: int, rows: RowReport | None) -> Setting:
    most = memory.micro_batch_tokens(train)
    if rows is not None and rows.longest_micro_batch:
        most = min(most, rows.longest_micro_batch)
    return Setting(train=train, dtype=dtype, devices=gpus, tokens=most)


def _too_large(found: Shape, setting: Setting, predicted: Memory, device: Device) -> SpecError:
    would = memory.fitting(found, setting, device.usable_gib)
    some = f"would fit: {'; or '.join(would)}" if would else "no setting would: use other devices"
    many = f"each of {setting.devices}" if setting.devices > 1 else "one"
    return SpecError(
        f"training needs {predicted.total:.1f} GiB on {many} {device.name}, which has "
        f"{device.usable_gib:.1f} of its {device.memory_gib:.1f} GiB for it",
        place="$.train",
        hint=some,
    )


def _with_hours(
    told: Training,
    spec: JobSpec,
    found: Shape,
    device: Device,
    root: Path,
    rows: RowReport | None,
) -> Training:
    if rows is None or not rows.train.get("tokens") or spec.train is None:
        return told
    tokens, trained, count = (rows.train[name] for name in ("tokens", "trained_tokens", "rows"))
    measured = next(_measured(spec.model.name, device, root), None)
    if measured is not None:
        rate, speed_of, assumed = measured[1] * told.gpus, measured[0], None
    elif device.peak is not None:
        work = 3 * found.forward([round(tokens / count)] * count, trained)
        rate, speed_of = tokens * ASSUMED_MFU * device.peak * told.gpus / work, None
        assumed = ASSUMED_MFU
    else:
        return told
    total = round(tokens * spec.train.num_train_epochs)
    return msgspec.structs.replace(
        told,
        tokens=total,
        tokens_per_second=rate,
        speed_of=speed_of,
        assumed_mfu=assumed,
        hours=total / rate / 3600,
    )


def _measured(model: str, device: Device, root: Path) -> Iterator[tuple[str, float]]:
    """(job, tokens a second and device) of finished jobs of this model on such devices."""
    if not RootPaths(root).format.exists():
        return
    done = sorted(Queue(root).jobs(State.SUCCEEDED), key=lambda job: job.enqueued_at, reverse=True)
    for job in done[:_MOST_JOBS]:
        left = records.read(job.paths.attempt(job.attempt).done("train"), _Trained)
        if left is None or left.tokens_per_second is None or device.name not in left.engine.device:
            continue
        try:
            same = job.spec.model.name == model
        except (JobspecError, OSError):
            continue
        if same:
            yield job.id, left.tokens_per_second / max(1, left.engine.world_size)
