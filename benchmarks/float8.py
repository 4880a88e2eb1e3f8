"""How losses in float8 compare with bfloat16's: `python -m benchmarks.float8 [--steps 100]`.

A small Olmo-3 model of random weights learns the bytes of this checkout's documentation at a
learning rate of 1e-3, once in bfloat16 and once in float8. Then both precisions continue from the
weights of the first, with its Python sources at 1e-5. Batches are the same, and master weights are
float32. The model is converted by `worker.kernels.float8` as a job's is. On a GPU of NVIDIA's
Hopper generation or a newer one, all is computed as in a job. Elsewhere products are emulated,
and what would be bfloat16 is computed in float32, which is faster where a CPU has no bfloat16;
weights and gradients still hold bfloat16's values.

It prints held-out losses and by how much they differ. It needs torchao, and some minutes of a CPU.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch

from benchmarks.optimizers import TOKENS, batches, held_out, loss_of, make_model, read
from worker.kernels import float8

ROWS = 8
HELD_OUT = 32  # rows
WARM_UP = 10  # steps
PRECISIONS = ("bfloat16", "float8")
PARTS = (("learning", 1e-3, "docs", "*.md"), ("tuning", 1e-5, "worker", "*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="of each part [default: 100]")
    parser.add_argument("--every", type=int, default=10, help="steps between held-out losses")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    float8.EMULATED = device.type == "cpu" or torch.cuda.get_device_capability() < (9, 0)
    began = time.monotonic()
    start = make_model().bfloat16().to(device, torch.float32 if float8.EMULATED else torch.bfloat16)
    for part, rate, directory, pattern in PARTS:
        text = read(directory, pattern).to(device)
        models = {precision: copy.deepcopy(start) for precision in PRECISIONS}
        print(convert(models["float8"]))
        curves = [list(train(each, text, rate, args)) for each in models.values()]
        print_curves(part, rate, curves, args.every)
        start = models["bfloat16"]
    print(f"{time.monotonic() - began:.0f} s, torch {torch.__version__}")


def convert(model: Any) -> str:
    line = {"input_ids": torch.arange(TOKENS, device=model.device)[None]}
    return float8.convert(model, line, agree=bool)


def train(model: Any, text: torch.Tensor, rate: float, args: Any) -> Iterator[float]:
    """Train a model; yield held-out losses, the first one before the first step."""
    size = HELD_OUT * (TOKENS + 1)
    held = text[:size]
    weights = list(model.parameters())
    masters = [each.detach().float().clone() for each in weights]
    optimizer = torch.optim.AdamW(masters, lr=rate, betas=(0.9, 0.95), eps=1e-6)
    yield held_out(model, held)
    for number, rows in enumerate(batches(text[size:], args.steps, ROWS), start=1):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, number / WARM_UP)
        model.zero_grad()
        loss_of(model, rows).backward()
        for master, weight in zip(masters, weights, strict=True):
            master.grad = weight.grad.bfloat16().float()
        optimizer.step()
        with torch.no_grad():
            for master, weight in zip(masters, weights, strict=True):
                weight.copy_(master.bfloat16())
        if number % args.every == 0:
            yield held_out(model, held)


def print_curves(part: str, rate: float, curves: list[list[float]], every: int) -> None:
    print(f"{part} at {rate:g}\n{'step':>6} {'bfloat16':>9} {'float8':>9} {'off':>8}")
    pairs = list(zip(*curves, strict=True))
    for number, (exact, rounded) in enumerate(pairs):
        print(f"{number * every:6} {exact:9.4f} {rounded:9.4f} {rounded - exact:+8.4f}")
    differences = [rounded - exact for exact, rounded in pairs]
    largest = max(differences, key=abs)
    print(f"largest difference {largest:+.4f}, mean {fmean(differences):+.4f}", flush=True)


if __name__ == "__main__":
    main()
