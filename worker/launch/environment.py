"""The environment of a phase: the worker's, without variables that could change the run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jobspec.storage.layout import RootPaths
from worker.host import gpu_selection
from worker.host.devices import WorkerDevices

# Variables of a launcher, a scheduler step or a login shell that would change a phase.
_SCRUBBED = ("ACCELERATE_", "TORCHELASTIC_", "DEEPSPEED_", "DS_", "FSDP_", "PYTORCH_LIGHTNING_")
_SCRUBBED_NAMES = frozenset(
    (
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
        *("NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "PYTHONSTARTUP"),
        *("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"),
    )
)
# torch reads the first of these that it knows: before 2.9 the second, on AMD's devices the third.
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def phase_environment(
    base: Mapping[str, str],
    *,
    root: Path,
    tmp: Path,
    devices: WorkerDevices,
    ranks: int = 1,
) -> dict[str, str]:
    """The complete environment of a phase: the worker's without `_SCRUBBED`, and all cache paths.

    Args:
        base: the worker's environment.
        root: of the queue; it contains the caches of models and data.
        tmp: a short node-local directory, for sockets and compile caches.
        devices: the worker's; without GPUs, they are hidden from the phase.
        ranks: processes among which this node's cores are divided.
    """
    kept = {
        name: value
        for name, value in base.items()
        if name not in _SCRUBBED_NAMES and not name.startswith(_SCRUBBED)
    }
    cache = RootPaths(root).cache
    cores = len(os.sched_getaffinity(0))
    kept |= {
        "TMPDIR": str(tmp),
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(RootPaths(root).hub),
        "HF_DATASETS_CACHE": str(RootPaths(root).datasets),
        "XDG_CACHE_HOME": str(cache / "xdg"),
        "TRITON_CACHE_DIR": str(tmp / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp / "inductor"),
        "TORCH_EXTENSIONS_DIR": str(tmp / "torch_extensions"),
        "VLLM_CACHE_ROOT": str(tmp / "vllm"),
        "FLASHINFER_WORKSPACE_BASE": str(tmp / "flashinfer"),
        "HF_HUB_OFFLINE": base.get("HF_HUB_OFFLINE", "1"),
        "HF_DATASETS_OFFLINE": base.get("HF_DATASETS_OFFLINE", "1"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "WANDB_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "true",
        "OMP_NUM_THREADS": base.get("OMP_NUM_THREADS", str(max(1, cores // ranks))),
        "PYTHONUNBUFFERED": "1",
    }
    if not devices.on_gpu:
        kept |= {"DS_ACCELERATOR": "cpu", **gpu_selection.HIDE_ALL}
    elif not any(name in kept for name in _ALLOCATOR_SETTINGS):
        # Otherwise memory that is free in pieces can't be used for one large tensor.
        kept["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return kept
