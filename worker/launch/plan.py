"""From a spec and the devices found to what is run: a plan, DeepSpeed's configuration, argv, env.

Pure: nothing here starts a process or reads a file. DeepSpeed's configuration comes from the spec
alone and is handed to the trainer as a dictionary, the same way on CPU and GPU, so that no
launcher's default can slip in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobspec.errors import SpecError
from jobspec.spec.schema import JobSpec, TrainSpec
from jobspec.storage.layout import AttemptPaths, RootPaths

_MODULES = {
    "prepare": "worker.data.prepare",
    "convert": "worker.checkpoints.convert",
    "train": "worker.training.train",
    "eval": "worker.evaluation.evaluate",
}

# Starts a command once on each node of the job; `worker.process.coordinator` sees to everything
# else. Told what to
# do in full, since SLURM_* variables of the batch script would steer it otherwise.
SRUN = (
    "srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --export=ALL --overlap "
    "--cpu-bind=none --kill-on-bad-exit=0 --wait=0 --unbuffered"
)

# What a launcher, a scheduler step or a login shell left behind must not steer a phase.
_SCRUBBED = ("ACCELERATE_", "TORCHELASTIC_", "DEEPSPEED_", "DS_", "FSDP_", "PYTORCH_LIGHTNING_")
_SCRUBBED_NAMES = frozenset(
    (
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
        *("NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "PYTHONSTARTUP"),
        *("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"),
    )
)


@dataclass(frozen=True)
class Devices:
    """What a worker trains on: `count` GPUs a node, or `count` processes on the CPU of each."""

    count: int
    kind: str = "cpu"
    name: str | None = None
    memory_gib: float | None = None
    nodes: int = 1

    @property
    def on_gpu(self) -> bool:
        return self.kind == "cuda"

    @property
    def total(self) -> int:
        """Devices on all nodes."""
        return self.count * self.nodes


@dataclass(frozen=True)
class Plan:
    """How the fixed global batch is spread: `world` ranks on `nodes` nodes, the same number on
    each; `world` / sequence_parallel × `accumulation` × `micro` rows."""

    world: int
    micro: int
    accumulation: int
    nodes: int = 1

    @property
    def ranks(self) -> int:
        """Ranks on one node."""
        return self.world // self.nodes


def plan(spec: JobSpec, devices: Devices, *, most_rows: int | None = None) -> Plan:
    """Spread the spec's global batch over the devices.

    Without `resources.gpus` the most devices that divide the batch are used.

    Args:
        most_rows: rows a micro-batch may have, where more were seen not to fit into memory.

    Raises:
        SpecError: the spec wants devices that are not there, or that do not divide the batch.
    """
    train = spec.train or TrainSpec()
    micro = min(train.per_device_train_batch_size, most_rows or train.per_device_train_batch_size)
    while train.global_batch_size % micro:
        micro -= 1
    share, degree = train.global_batch_size // micro, train.sequence_parallel
    if degree > devices.total:
        raise SpecError(
            f"wants groups of {degree} devices, {devices.total} are here",
            place="$.train.sequence_parallel",
        )
    wanted = spec.resources.gpus or _most(devices, share, degree)
    if wanted > devices.total:
        raise SpecError(
            f"wants {wanted} devices, {devices.total} are here", place="$.resources.gpus"
        )
    nodes = _nodes(wanted, devices)
    if nodes is None or wanted % degree or share % (wanted // degree):
        raise _uneven(train, devices, wanted, micro)
    return Plan(wanted, micro, share // (wanted // degree), nodes)


def _nodes(world: int, devices: Devices) -> int | None:
    """The fewest nodes that so many ranks can be spread over evenly; None where none can."""
    fitting = (n for n in range(1, devices.nodes + 1) if world % n == 0)
    return next((n for n in fitting if world // n <= devices.count), None)


def _most(devices: Devices, share: int, degree: int) -> int:
    """The most ranks that leave none idle: one group's, if nothing else does."""
    groups = range(1, devices.total // degree + 1)
    even = (n * degree for n in groups if share % n == 0 and _nodes(n * degree, devices))
    return max(even, default=degree)


def _uneven(train: TrainSpec, devices: Devices, world: int, micro: int) -> SpecError:
    """Why so many ranks can't share the batch, or the nodes, evenly."""
    rows, degree, place = train.global_batch_size, train.sequence_parallel, "$.resources.gpus"
    if world % degree:
        return SpecError(
            f"groups of {degree} can't be made of {world} devices",
            place="$.train.sequence_parallel",
            hint="choose a divisor of the devices",
        )
    if _nodes(world, devices) is None:
        return SpecError(
            f"`{world}` devices can't be taken evenly from {devices.nodes} × {devices.count}",
            place=place,
            hint="choose as many on each node",
        )
    groups = f" with {degree} devices a row" if degree > 1 else ""
    return SpecError(
        f"`{world}` devices do not divide {rows} rows a step into micro-batches of {micro}{groups}",
        place=place,
        hint=f"choose {f'{degree} × ' if degree > 1 else ''}a divisor of {rows // micro}, "
        "or another global_batch_size",
    )


def deepspeed_config(spec: JobSpec, micro: int, *, on_gpu: bool) -> dict[str, Any]:
    """DeepSpeed's configuration for a spec.

    `gradient_accumulation_steps` is 1 here because the trainer hands DeepSpeed a whole step at a
    time and marks its accumulation boundary itself.
    """
    assert spec.train is not None
    train = spec.train
    low_precision = spec.model.dtype == "bfloat16"
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": low_precision},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero(train, on_gpu),
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }


def _zero(train: TrainSpec, on_gpu: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": train.zero_stage}
    if train.zero_stage == 2:
        zero |= {
            "overlap_comm": on_gpu,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "round_robin_gradients": on_gpu,
        }
    if train.zero_stage == 3:
        zero |= {
            "overlap_comm": on_gpu,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    pinned = {"device": "cpu", "pin_memory": on_gpu}
    if train.offload in ("optimizer", "all"):
        zero["offload_optimizer"] = pinned
    if train.offload == "all":
        zero["offload_param"] = pinned
    return zero


def phase_command(
    phase: str, attempt_dir: Path, *, ranks: int = 1, port: int = 0, isolation: str = "auto"
) -> list[str]:
    """The command that runs a phase's ranks under a sitter."""
    sitter = [
        sys.executable,
        "-m",
        "worker.process.rank_launcher",
        "--ranks",
        str(ranks),
        "--port",
        str(port),
    ]
    sitter += ["--parent", str(os.getpid()), "--isolation", isolation]
    return [*sitter, "--", *_rank_command(phase, attempt_dir)]


@dataclass(frozen=True)
class Spread:
    """Ranks on several nodes, `ranks` on each; `tmp` is made on all of them, local to each."""

    nodes: int
    ranks: int
    tmp: Path
    launcher: str = SRUN
    isolation: str = "auto"


def spread_command(phase: str, attempt: AttemptPaths, spread: Spread) -> list[str]:
    """The command that runs a phase's ranks under a sitter on each of several nodes."""
    head = [sys.executable, "-m", "worker.process.coordinator", "--nodes", str(spread.nodes)]
    head += ["--launcher", spread.launcher, "--parent", str(os.getpid())]
    node = [sys.executable, "-m", "worker.process.node_agent", "--ranks", str(spread.ranks)]
    node += ["--isolation", spread.isolation, "--tmp", str(spread.tmp)]
    node += ["--log", str(attempt.log(phase))]
    return [*head, "--", *node, "--", *_rank_command(phase, attempt.dir)]


def _rank_command(phase: str, attempt_dir: Path) -> list[str]:
    return [sys.executable, "-m", _MODULES[phase], str(attempt_dir)]


def phase_environment(
    base: Mapping[str, str],
    *,
    root: Path,
    tmp: Path,
    devices: Devices,
    ranks: int = 1,
) -> dict[str, str]:
    """A phase's whole environment: the worker's own, scrubbed, with every cache in its place.

    Args:
        base: the worker's environment.
        tmp: a short node-local directory, for sockets and compile caches.
        ranks: processes that share this node's cores.
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
        kept |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return kept
