"""The memory that ZeRO-2 takes for a step of several micro-batches, without a language model.

    python step_memory.py saved|plain

One rank trains a stack of linear layers in bfloat16 on the CPU, for two steps of three
micro-batches. `plain` leaves DeepSpeed's optimizer as it is. It prints, as JSON, the peak of the
resident set above what was there before the model, in bytes a weight, and each step's loss.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

from jobspec.estimates import memory
from worker.program import run_program
from worker.training import zero_two
from worker.training.throughput import peak_memory_gib

LAYERS, WIDTH = 20, 1536
MICROS, STEPS = 3, 2


def main(*, saved: bool) -> None:
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}  # type: ignore[attr-defined] - as in worker.training.train
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    os.environ["LOCAL_RANK"] = "0"
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed("gloo", verbose=False)
    torch.manual_seed(0)
    layers = [
        torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(LAYERS)
    ]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=WIDTH**-0.5)
    before = resident_gib() - 2 * LAYERS * WIDTH**2 / 2**30
    engine = made(torch.nn.Sequential(*layers), saved)
    losses = [step(engine, number) for number in range(STEPS)]
    weights = LAYERS * WIDTH * WIDTH
    taken = (peak_memory_gib() - before) * 2**30 / weights
    sys.stdout.write(json.dumps({"bytes_a_weight": taken, "losses": losses}) + "\n")


def resident_gib() -> float:
    """What is resident now. Source: proc_pid_statm(5)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def made(model: torch.nn.Module, saved: bool) -> deepspeed.DeepSpeedEngine:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    if saved:
        count = sum(each.numel() for each in model.parameters())
        most = memory.group_elements(count, 1)
        optimizer.param_groups = zero_two.split_groups(optimizer.param_groups, most)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": 2, "overlap_comm": False},
    }
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
    if saved:
        zero_two.save_memory(engine.optimizer)
    return engine


def step(engine: deepspeed.DeepSpeedEngine, number: int) -> float:
    total = 0.0
    for micro in range(MICROS):
        draw = torch.Generator().manual_seed(MICROS * number + micro)
        inputs = torch.randn(1, WIDTH, generator=draw).bfloat16()
        engine.set_gradient_accumulation_boundary(micro == MICROS - 1)
        loss = (engine(inputs).float() - 1).square().mean()
        engine.backward(loss)
        total += loss.item()
    engine.step()
    return total


if __name__ == "__main__":
    run_program(lambda: main(saved=sys.argv[1] == "saved"))
