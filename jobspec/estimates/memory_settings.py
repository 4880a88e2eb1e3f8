"""Which settings need less memory, for messages about jobs that ran out of it."""

from __future__ import annotations

from typing import Literal

from jobspec.records import phases
from jobspec.records.phases import EVAL
from jobspec.spec.schema import JobSpec, TrainSpec


def for_devices(spec: JobSpec, phase: str) -> str:
    """Settings of a spec that reduce a device's memory, those with the least side effects first."""
    train = spec.train
    if not phases.trains(phase) or train is None:
        return "use devices with more memory, or a smaller eval.max_gen_toks"
    return _advise(_of_training(train, offload="optimizer"))


def for_host(spec: JobSpec, phase: str | None, *, on_gpu: bool) -> str:
    """What reduces the main memory of a worker's node, or gives it more.

    Args:
        spec: of the job.
        phase: the one that ran; None if not known.
        on_gpu: whether the devices have memory of their own; ranks on CPUs share the node's.
    """
    more = "give each worker more memory (`jobspec setup --mem`, sbatch --mem)"
    train = spec.train
    if train is None or not phases.trains(phase):
        generates = phases.find(phase or "") is EVAL and not on_gpu
        return f"{more}, or use a smaller eval.max_gen_toks" if generates else more
    if on_gpu and train.offload == "none":
        return more
    changes = ['train.offload="none"'] if on_gpu else _of_training(train, offload="none")
    return f"{more}; {_advise(changes)}"


def _of_training(train: TrainSpec, *, offload: Literal["none", "optimizer"]) -> list[str]:
    changes = [
        (train.gradient_checkpointing is False, "train.gradient_checkpointing=true"),
        (train.zero_stage != 3, "train.zero_stage=3 on more devices"),
        ((train.offload == "none") != (offload == "none"), f'train.offload="{offload}"'),
        (train.lora is None, 'train.lora={"r": 16}'),
        (True, f"train.max_length below {train.max_length}"),
    ]
    return [change for helps, change in changes if helps]


def _advise(changes: list[str]) -> str:
    return "these settings need less memory: " + ", ".join(changes)
