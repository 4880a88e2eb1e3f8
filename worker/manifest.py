"""What ran, on what, from which code: `manifest.json` of an attempt. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from worker.launch import Devices, Plan

PACKAGES = (
    *("torch", "transformers", "accelerate", "deepspeed", "trl", "peft", "datasets", "tokenizers"),
    *("safetensors", "lm_eval", "math-verify", "vllm", "flash-attn", "liger-kernel", "numpy"),
    *("msgspec", "jobspec"),
)


def manifest(devices: Devices, plan: Plan | None, worker: str) -> dict[str, Any]:
    """Facts of this attempt: versions, code, host, devices, how the batch is spread."""
    return {
        "worker": worker,
        "host": platform.node(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "code": code_version(),
        "image": os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER"),
        "device": {"kind": devices.kind, "name": devices.name, "count": devices.count},
        "plan": None
        if plan is None
        else {
            "world_size": plan.world,
            "nodes": plan.nodes,
            "per_device_train_batch_size": plan.micro,
            "gradient_accumulation_steps": plan.accumulation,
        },
    }


def code_version() -> dict[str, Any]:
    """The commit of this code and whether it has uncommitted changes; empty outside a checkout."""
    if commit := os.environ.get("JOBSPEC_COMMIT"):
        return {"commit": commit, "dirty": False}
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(_git(here, "status", "--porcelain"))}


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


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
