"""Estimates a job's disk use: final weights, weights of epochs, checkpoints while it trains.

A checkpoint has the trained weights, a copy of them in float32, and Adam's two moments (measured on
ZeRO-2: 16.1 bytes a parameter with float32 weights). Of
adapters, epochs keep only the adapter, and one merged model exists while an epoch is scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import msgspec

from jobspec.estimates import memory
from jobspec.estimates.training_time import model_shape
from jobspec.spec.schema import JobSpec

_STATES = 2  # that are kept; while training, a third exists until the oldest is deleted
_DTYPE_BYTES = {"bfloat16": 2, "float32": 4}


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a job: `stays` after it has succeeded, at most `peak` before."""

    stays: int
    peak: int


class Footprints(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of several jobs, `peak` if all of them train at once; `unknown`: models of no known
    size."""

    stays: int
    peak: int
    unknown: list[str]


def footprint(spec: JobSpec, root: Path) -> Footprint | None:
    """Estimate one job; None if the size of its model is not known here."""
    train = spec.train
    if train is None:
        return Footprint(stays=0, peak=0)
    shape = model_shape(spec, root)
    if shape is None:
        return None
    width = _DTYPE_BYTES[spec.model.dtype]
    trained = shape.parameters if train.lora is None else shape.adapted(train.lora.r)
    model, saved = width * shape.parameters, width * trained
    state = round((width + memory.state_bytes(train)) * trained)
    epochs = min(math.ceil(train.num_train_epochs) - 1, train.save_total_limit)
    adapter = saved if train.lora is not None else 0
    stays = model + adapter + epochs * saved
    scores_epochs = spec.eval is not None and spec.eval.checkpoints == "all" and epochs > 0
    merged = model if train.lora is not None and scores_epochs else 0
    return Footprint(stays=stays, peak=stays + _STATES * state + max(state, merged))


def together(specs: Iterable[JobSpec], root: Path) -> Footprints:
    """Estimate several jobs together."""
    found = [(spec.model.name, footprint(spec, root)) for spec in specs]
    known = [one for _, one in found if one is not None]
    return Footprints(
        stays=sum(one.stays for one in known),
        peak=sum(one.peak for one in known),
        unknown=sorted({name for name, one in found if one is None}),
    )
