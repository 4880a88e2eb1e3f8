"""What ran, on what, from which code: `manifest.json` of an attempt. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import JobspecError
from jobspec.records import phases
from jobspec.spec.schema import JobSpec
from jobspec.version import code_version, package_versions
from worker.host.devices import WorkerDevices
from worker.launch.plan import BatchPlan

_DRIVER = re.compile(r"Kernel Module(?: for \S+)?\s+([\d.]+)")
# Of the prepare phase's report, what says which rows were trained on and how they were rendered.
_INPUTS = ("key", "data_sha256", "template_sha256", "tokenizer_sha256", "rows_train", "rows_eval")
_ENGINE = ("class", "zero_stage", "optimizer", "dtype", "attention", "kernels")  # of the train's


def manifest(
    devices: WorkerDevices,
    plan: BatchPlan | None,
    worker: str,
    spec: JobSpec,
    summaries: Mapping[str, dict[str, Any]] | None = None,
    *,
    deepspeed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Facts of this attempt: versions, code, host, devices, inputs, how the batch is spread.

    Args:
        summaries: those of the phases that have finished, by the phase's name. Prepare's has the
            inputs; train's says which engine and kernels ran.
        deepspeed: DeepSpeed's configuration, where there is training.
    """
    prepared = (summaries or {}).get(phases.PREPARE.name)
    trained = (summaries or {}).get(phases.TRAIN.name)
    train = spec.train
    return {
        "worker": worker,
        "host": platform.node(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "packages": package_versions(),
        "code": code_version(),
        "image": image(),
        "image_sha256": image_digest(image()),
        "device": {"kind": devices.kind, "name": devices.name, "count": devices.count},
        "driver": driver(),
        "seeds": {
            "train": train.seed if train is not None else None,
            "eval": spec.eval.seed if spec.eval is not None else None,
        },
        "inputs": {name: prepared[name] for name in _INPUTS if name in prepared}
        if prepared is not None
        else {},
        "engine": {name: trained.get("engine", {}).get(name) for name in _ENGINE}
        if trained is not None
        else {},
        "deepspeed": deepspeed,
        "plan": None
        if plan is None
        else {
            "world_size": plan.world,
            "nodes": plan.nodes,
            "per_device_train_batch_size": plan.micro,
            "gradient_accumulation_steps": plan.accumulation,
        },
    }


def image() -> str | None:
    """The image this runs from, as Apptainer names it."""
    return os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")


def image_digest(path: str | None) -> str | None:
    """The image's SHA-256: $JOBSPEC_IMAGE_SHA256, else what `sha256sum` left beside it.

    It is not computed here: an image has gigabytes, and every attempt would read them.
    """
    given = os.environ.get("JOBSPEC_IMAGE_SHA256")
    if given or path is None:
        return given or None
    try:
        words = Path(f"{path}.sha256").read_text().split()
    except OSError:
        return None
    return words[0] if words else None


def driver(said: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of the NVIDIA driver; None without one."""
    try:
        found = _DRIVER.search(said.read_text())
    except OSError:
        return None
    return found.group(1) if found else None


def planned_rows(manifest: Path, world: int) -> int | None:
    """Rows a micro-batch has by an attempt's manifest; None where there is none.

    Raises:
        JobspecError: another number of ranks runs than was planned.
    """
    try:
        plan = msgspec.json.decode(manifest.read_bytes())["plan"]
    except FileNotFoundError:
        return None
    if plan["world_size"] != world:
        raise JobspecError(f"{world} ranks run, {plan['world_size']} were planned", file=manifest)
    return plan["per_device_train_batch_size"]
