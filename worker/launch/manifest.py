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
from jobspec.records import base as records
from jobspec.records.base import Record
from jobspec.records.manifest import CodeVersion, Manifest, PlannedBatch, Seeds, UsedDevices
from jobspec.spec.schema import JobSpec
from jobspec.version import code_version, package_versions
from worker.host import identity
from worker.host.devices import WorkerDevices
from worker.launch.plan import BatchPlan

_DRIVER = re.compile(r"Kernel Module(?: for \S+)?\s+([\d.]+)")


def manifest(
    devices: WorkerDevices,
    plan: BatchPlan | None,
    worker: str,
    spec: JobSpec,
    finished: Mapping[str, Record] | None = None,
    *,
    deepspeed: dict[str, Any] | None = None,
) -> Manifest:
    """The provenance of this attempt: versions, code, host, devices, inputs, batch.

    Args:
        finished: fields that the reports of finished phases fill (`PhaseEntry.manifest_facts`).
        deepspeed: DeepSpeed's configuration if the job trains.
    """
    return Manifest(
        worker=worker,
        host=platform.node(),
        python=platform.python_version(),
        kernel=platform.release(),
        packages=package_versions(),
        code=msgspec.convert(code_version(), CodeVersion),
        image=image(),
        image_sha256=image_digest(image()),
        cpu=identity.cpu(),
        device=UsedDevices(kind=devices.kind, name=devices.name, count=devices.count),
        driver=driver(),
        seeds=Seeds(
            train=spec.train.seed if spec.train is not None else None,
            eval=spec.eval.seed if spec.eval is not None else None,
        ),
        deepspeed=deepspeed,
        plan=_planned_batch(plan) if plan is not None else None,
        **(finished or {}),  # type: ignore[arg-type] - the table of phases names the fields
    )


def _planned_batch(plan: BatchPlan) -> PlannedBatch:
    return PlannedBatch(
        world_size=plan.world,
        nodes=plan.nodes,
        per_device_train_batch_size=plan.micro,
        gradient_accumulation_steps=plan.accumulation,
        least_memory=plan.least_memory,
    )


def are_alike(one: Manifest, other: Manifest) -> bool:
    """Whether two attempts ran on the same kind of device, with the same packages and code."""
    device = one.device.kind, one.device.name, one.packages, one.code
    if device != (other.device.kind, other.device.name, other.packages, other.code):
        return False
    return one.device.kind != "cpu" or one.cpu == other.cpu


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


def read_plan(manifest: Path, world: int) -> PlannedBatch | None:
    """The plan in an attempt's manifest, for `world` ranks. None if there is no manifest.

    Raises:
        JobspecError: the number of ranks is not the planned one.
    """
    found = records.read(manifest, Manifest)
    if found is None or found.plan is None:
        return None
    if found.plan.world_size != world:
        raise JobspecError(
            f"{world} ranks run, {found.plan.world_size} were planned", file=manifest
        )
    return found.plan
