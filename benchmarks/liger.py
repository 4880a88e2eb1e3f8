"""What Liger's kernels change in a model's loss and gradients, a family a line.

    python -m benchmarks.liger                      on a GPU, with the extra `gpu`
    python -m benchmarks.liger --norms              which norms Liger itself leaves, by family
    TRITON_INTERPRET=1 python -m benchmarks.liger   without one: Triton's interpreter runs them,
                                                    with `pip install --no-deps triton liger-kernel`

The model is ours as it trains: rows laid end to end, loss by worker/training/loss.py; tiny, random
weights, float32. `tests/integration/test_gpu.py` holds the same where there is a GPU.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    Olmo2Config,
    Olmo3Config,
    Qwen3Config,
)

from benchmarks import families
from worker.kernels import liger, varlen_attention
from worker.packing.collate import find_targets, pack
from worker.training import loss as scoring

try:
    import triton
    import triton.language as tl  # here: what is compiled must see it among the module's names
except ImportError:
    triton = tl = None

FAMILIES = {
    "qwen3": Qwen3Config,
    "olmo2": Olmo2Config,
    "olmo3": Olmo3Config,
    "llama": LlamaConfig,
    "gemma": GemmaConfig,
}
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Difference:
    """Loss without and with, and the greatest difference in any gradient beside its greatest."""

    kernels: str
    replaced: tuple[str, ...]  # classes of layers that Liger computes
    left: tuple[str, ...]  # norms that it doesn't, although it computes others of their class
    loss: float
    loss_with: float
    gradient: float
    gradient_off: float


def compare(family: str, device: str) -> Difference:
    """Loss and gradients of the same two rows, without Liger's kernels and then with them."""
    if INTERPRETED:
        interpret()
    torch.manual_seed(0)
    config = FAMILIES[family](**SHAPE)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=varlen_attention.register()
    )
    model.to(device)
    rows = [torch.randint(2, 61, (length,)) for length in (7, 12)]
    line = pack(rows, [row.clone() for row in rows])
    line |= find_targets(line)
    line = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in line.items()}
    loss, gradients = _step(model, line)
    name = liger.apply(model, True, on_gpu=True)
    assert name is not None
    loss_with, found = _step(model, line)
    replaced = {
        type(layer).__name__
        for layer in model.modules()
        if "liger" in getattr(layer.forward, "__module__", "")
    }
    return Difference(
        *(name, tuple(sorted(replaced)), _names(model), loss, loss_with),
        max(gradient.abs().max().item() for gradient in gradients.values()),
        max((found[name] - gradients[name]).abs().max().item() for name in gradients),
    )


def _names(model: Any) -> tuple[str, ...]:
    """The norms of a model that Liger could compute and doesn't, without the layers' numbers."""
    patches = importlib.import_module("liger_kernel.transformers.monkey_patch")
    left = (name for name, *_ in liger.remaining_norms(model, patches))
    return tuple(sorted({re.sub(r"\.\d+\.", ".*.", name) for name in left}))


@dataclass(frozen=True)
class Norms:
    """The norms of a family that Liger leaves, and those that are left after our part."""

    family: str
    by_liger: tuple[str, ...]
    by_us: tuple[str, ...]


def compare_norms() -> Iterator[Norms]:
    """Every family of text models that Liger knows, on a tiny model of it."""
    patches = importlib.import_module("liger_kernel.transformers.monkey_patch")
    for family in patches.MODEL_TYPE_TO_APPLY_LIGER_FN:
        if family in families.FAMILIES:
            model = families.tiny_model(family)
            patches._apply_liger_kernel_to_instance(
                model=model, cross_entropy=False, fused_linear_cross_entropy=False
            )
            by_liger = _names(model)
            liger.patch_remaining_norms(model, patches)
            yield Norms(family, by_liger, _names(model))


def _step(model: Any, line: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = scoring.of(model)(model, line)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


@functools.cache
def interpret() -> None:
    """Give Triton's interpreter what Liger asks of a GPU's own library, which it can't call.

    That is rsqrt and tanh, put in Triton's own words, and a Python float as an argument where the
    interpreter (3.9) takes tensors and integers alone.
    """
    interpreter = importlib.import_module("triton.runtime.interpreter")
    assert triton is not None and tl is not None

    @triton.jit
    def rsqrt(x):
        return 1.0 / tl.sqrt(x)

    @triton.jit
    def tanh(x):
        return 2 * tl.sigmoid(2 * x) - 1

    taken = interpreter._implicit_cvt

    def convert(argument: Any) -> Any:
        if not isinstance(argument, float):
            return taken(argument)
        value = interpreter.TensorHandle(np.array([argument], np.float32), tl.float32)
        return tl.tensor(value, tl.float32)

    interpreter._implicit_cvt = convert
    importlib.import_module("liger_kernel.ops.rms_norm").rsqrt = rsqrt
    importlib.import_module("liger_kernel.ops.geglu").tanh = tanh


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.liger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--norms", action="store_true", help="list what Liger leaves")
    if parser.parse_args().norms:
        for norms in compare_norms():
            print(json.dumps(asdict(norms)))
        return
    if not INTERPRETED and not torch.cuda.is_available():
        raise SystemExit("no GPU: set TRITON_INTERPRET=1 to let Triton's interpreter run them")
    for family in FAMILIES:
        found = compare(family, "cpu" if INTERPRETED else "cuda")
        print(
            f"{family:<6} {found.kernels}  loss {found.loss:.7f} {found.loss_with:.7f}  "
            f"gradients up to {found.gradient:.3f} differ by {found.gradient_off:.1e}  "
            f"{', '.join(found.replaced)}"
        )


if __name__ == "__main__":
    main()
