"""What lean optimizers cost in loss: `python -m benchmarks.optimizers [--steps 400]`.

A small Olmo-3 model of random weights first learns the bytes of this checkout's documentation.
Then each of these continues with its Python sources, at a learning rate of 1e-5, on the same
batches:

    adamw       float32 master weights and moments: what `adamw_torch_fused` does under ZeRO-2
    8bit        float32 master weights, moments in 8 bits by torchao: `adamw_8bit`
    8bit-bnb    the same by bitsandbytes, where it is installed
    nearest     no master weights: weights and moments in bfloat16, rounded to the nearest
    stochastic  the same, with weights rounded up or down at random (torchao's `_fp32_to_bf16_sr`)

The model's weights and gradients hold bfloat16's values in all of them; they are multiplied in
float32, which changes nothing between them and is faster where a CPU has no bfloat16. It prints
the held-out loss of the first, and by how much the others differ from it. It needs torchao, and
some minutes of a CPU.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torchao.optim.adam import single_param_adam
from transformers import Olmo3Config, Olmo3ForCausalLM

from worker.kernels.adamw_8bit import FlatAdamW8bit

BNB = "bitsandbytes"
REPO = Path(__file__).resolve().parents[1]
MASTERS = ("adamw", "8bit", "8bit-bnb")
WITHOUT = ("nearest", "stochastic")
LEARNED, RATE = 1e-3, 1e-5  # learning rates of the two parts
ROWS, TOKENS = 16, 128
DECAY, BETAS, EPSILON = 0.1, (0.9, 0.95), 1e-6
WARM_UP = 10  # steps

Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400, help="[default: 400]")
    parser.add_argument("--learn", type=int, default=300, help="steps of the first part")
    parser.add_argument("--every", type=int, default=100, help="steps between held-out losses")
    args = parser.parse_args()
    began = time.monotonic()
    start = learn(args.learn)
    routes = [each for each in (*MASTERS, *WITHOUT) if each != "8bit-bnb" or find_spec(BNB)]
    curves = {route: list(train(start, route, args.steps, args.every)) for route in routes}
    weights = sum(each.numel() for each in start.parameters())
    print(f"{weights:,} weights, {args.learn} + {args.steps} steps of {ROWS} × {TOKENS} bytes")
    print_table(curves, args.every)
    print(f"{time.monotonic() - began:.0f} s, torch {torch.__version__}")


def make_model() -> Any:
    """A small one with random weights."""
    torch.manual_seed(0)
    config = Olmo3Config(
        vocab_size=256, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=TOKENS, pad_token_id=0, bos_token_id=None,
        eos_token_id=None, use_cache=False,
    )  # fmt: skip
    return Olmo3ForCausalLM(config)


def learn(steps: int) -> Any:
    """A model that has read the documentation."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNED, betas=BETAS, eps=EPSILON)
    for rows in batches(read("docs", "*.md"), steps):
        optimizer.zero_grad()
        loss_of(model, rows).backward()
        optimizer.step()
    return model


def train(start: Any, route: str, steps: int, every: int) -> Iterator[float]:
    """Train a copy of a model; yield held-out losses, the first one before the first step."""
    torch.manual_seed(1)
    model = copy.deepcopy(start).bfloat16().float()
    rate = torch.tensor(RATE)
    update = (with_masters if route in MASTERS else without_masters)(model, rate, route)
    data = read("worker", "*.py")
    held, text = data[: 64 * (TOKENS + 1)], data[64 * (TOKENS + 1) :]
    yield held_out(model, held)
    for number, rows in enumerate(batches(text, steps), start=1):
        rate.fill_(RATE * min(1.0, number / WARM_UP))
        loss_of(model, rows).backward()
        for weight in model.parameters():
            weight.grad = weight.grad.bfloat16().float()
        update()
        model.zero_grad()
        if number % every == 0:
            yield held_out(model, held)


def with_masters(model: Any, rate: torch.Tensor, route: str) -> Step:
    """Float32 copies of the weights are updated, and rounded into the model."""
    weights = list(model.parameters())
    masters = [each.detach().clone() for each in weights]
    optimizer = adam(route, masters)

    def step() -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate.item()
        for master, weight in zip(masters, weights, strict=True):
            master.grad = weight.grad
        optimizer.step()
        with torch.no_grad():
            for master, weight in zip(masters, weights, strict=True):
                weight.copy_(master.bfloat16())

    return step


def adam(route: str, weights: list[torch.Tensor]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": RATE, "betas": BETAS, "eps": EPSILON, "weight_decay": DECAY}
    if route == "8bit":
        return FlatAdamW8bit(weights, **settings)
    if route == "8bit-bnb":
        return import_module(BNB).optim.AdamW8bit(weights, **settings)
    return torch.optim.AdamW(weights, **settings)


def without_masters(model: Any, rate: torch.Tensor, route: str) -> Step:
    """The model's weights are updated: computed in float32 and rounded, to the nearest or not."""
    weights = list(model.parameters())
    rounded = [each.detach().bfloat16() for each in weights]
    states = [(each, torch.zeros_like(each), torch.zeros_like(each)) for each in rounded]
    count = torch.tensor(0.0)

    @torch.no_grad()
    def step() -> None:
        count.add_(1)
        for weight, (own, first, second) in zip(weights, states, strict=True):
            assert weight.grad is not None
            single_param_adam(
                own, weight.grad, count, first, second, None, rate, *BETAS, DECAY, EPSILON,
                True, route == "stochastic",
            )  # fmt: skip
            weight.copy_(own)

    return step


def print_table(curves: dict[str, list[float]], every: int) -> None:
    others = list(curves)[1:]
    print(f"{'step':>6} {'adamw':>8}", *(f"{route:>11}" for route in others))
    for number, exact in enumerate(curves["adamw"]):
        differences = (f"{curves[route][number] - exact:+11.4f}" for route in others)
        print(f"{number * every:6} {exact:8.4f}", *differences)


def read(directory: str, pattern: str) -> torch.Tensor:
    """The bytes of all files below a directory of this checkout."""
    files = sorted((REPO / directory).rglob(pattern))
    return torch.tensor(list(b"".join(file.read_bytes() for file in files)))


def batches(text: torch.Tensor, steps: int, count: int = ROWS) -> Iterator[torch.Tensor]:
    """Rows that begin at random places, the same in every run."""
    draw = torch.Generator().manual_seed(2)
    for _ in range(steps):
        starts = torch.randint(len(text) - TOKENS - 1, (count,), generator=draw).tolist()
        yield torch.stack([text[start : start + TOKENS + 1] for start in starts])


def loss_of(model: Any, rows: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=rows[:, :-1]).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def held_out(model: Any, text: torch.Tensor) -> float:
    return loss_of(model, text.view(-1, TOKENS + 1)).item()


if __name__ == "__main__":
    main()
