"""How large a run's micro-batches are and which layers it recomputes, alike on all ranks."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from jobspec.estimates import micro_batches
from jobspec.estimates.memory import Setting
from jobspec.models import decoder_shape
from jobspec.models.devices import Device
from jobspec.records.manifest import MicroBatchPlan
from jobspec.spec.schema import JobSpec
from worker.host import memory

_HOST_FRAC = 0.8  # of a host's memory; files in the page cache and other processes need the rest


def choose(spec: JobSpec, *, longest: int, least_memory: bool) -> MicroBatchPlan:
    """Choose the micro-batches from the memory of the devices. All ranks call it.

    It depends on how much memory there is, not on how much is free, so that an attempt on devices
    of the same kind resumes with the same micro-batches.

    Args:
        longest: tokens of the longest row.
        least_memory: whether an attempt has run out of memory.
    """
    assert spec.train is not None
    config = _text_config(spec)
    setting = Setting(
        train=spec.train,
        dtype=spec.model.dtype,
        devices=dist.get_world_size(),
        tokens=longest,
        on_gpu=torch.cuda.is_available(),
    )
    return micro_batches.choose(
        decoder_shape.of(config.to_dict()),
        setting,
        longest=longest,
        layers=config.num_hidden_layers,
        usable_gib=_usable_gib(),
        least_memory=least_memory,
    )


def recompute_first(model: Any, count: int) -> None:
    """Let only the first `count` layers be recomputed, after the Trainer has chosen all of them.

    Layers that are not trained, such as those of a vision tower, are left alone. A model whose
    layers can't be chosen one by one recomputes all.
    """
    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    trained = [layer for layer in layers if any(p.requires_grad for p in layer.parameters())]
    for layer in trained[count:]:
        layer.gradient_checkpointing = False


def _text_config(spec: JobSpec) -> Any:
    config = AutoConfig.from_pretrained(
        spec.model.name,
        revision=spec.model.revision,
        trust_remote_code=spec.model.trust_remote_code,
    )
    return config.get_text_config()


def _usable_gib() -> float:
    """What tensors can use on each device: the least of any rank."""
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
        own = Device(name=torch.cuda.get_device_name(), memory_gib=total).usable_gib
    else:
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        own = _HOST_FRAC * memory.usable_gib() / ranks
    device = "cuda" if torch.cuda.is_available() else "cpu"
    agreed = torch.tensor(own, dtype=torch.float64, device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return float(agreed)
