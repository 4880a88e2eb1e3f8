"""What ran, on what, from which code: `manifest.json` of an attempt. Imports nothing heavy."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import JobspecError
from jobspec.spec.schema import JobSpec
from worker.launch import plan as launch
from worker.launch.plan import Devices, Plan

PACKAGES = (
    *("torch", "transformers", "accelerate", "deepspeed", "trl", "peft", "datasets", "tokenizers"),
    *("safetensors", "lm_eval", "math-verify", "vllm", "liger-kernel", "triton"),
    *("flash-attn", "flash-attn-3", "flash-attn-4", "numpy", "msgspec", "jobspec"),
)


_COMMIT = "# branch.oid "
_DRIVER = re.compile(r"Kernel Module(?: for \S+)?\s+([\d.]+)")
# Of the prepare phase's report, what says which rows were trained on and how they were rendered.
_INPUTS = ("key", "data_sha256", "template_sha256", "tokenizer_sha256", "rows_train", "rows_eval")
_ENGINE = ("class", "zero_stage", "optimizer", "dtype", "attention", "kernels")  # of the train's


def manifest(
    devices: Devices,
    plan: Plan | None,
    worker: str,
    spec: JobSpec,
    prepared: dict[str, Any] | None = None,
    *,
    trained: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Facts of this attempt: versions, code, host, devices, inputs, how the batch is spread.

    Args:
        prepared: the prepare phase's report, once there is one.
        trained: the train phase's, likewise; it says which engine and kernels ran.
    """
    train = spec.train
    return {
        "worker": worker,
        "host": platform.node(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "packages": packages(),
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
        "deepspeed": None
        if train is None or plan is None
        else launch.deepspeed_config(spec, plan.micro, on_gpu=devices.on_gpu),
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


def code_version() -> dict[str, Any]:
    """The commit of this code and whether it has uncommitted changes; empty outside a checkout."""
    if commit := os.environ.get("JOBSPEC_COMMIT"):
        return {"commit": commit, "dirty": False}
    here = Path(__file__).resolve().parent
    told = (_git(here, "status", "--porcelain=v2", "--branch") or "").splitlines()
    commits = [line.removeprefix(_COMMIT) for line in told if line.startswith(_COMMIT)]
    if not commits:
        return {}
    return {"commit": commits[0], "dirty": any(not line.startswith("#") for line in told)}


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            check=False,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def packages() -> dict[str, str]:
    """Versions of `PACKAGES` that are installed, for this process's children too.

    They are read again when a directory that packages are in has changed: reading them all takes
    as long as the rest of an attempt of no work.
    """
    return dict(_packages_in(tuple((path, _changed(path)) for path in sys.path)))


@functools.lru_cache(maxsize=1)
def _packages_in(places: tuple[tuple[str, int | None], ...]) -> dict[str, str]:
    return {name: found for name in PACKAGES if (found := _version(name))}


def _changed(path: str) -> int | None:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
