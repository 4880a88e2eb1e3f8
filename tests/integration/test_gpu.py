"""What needs a GPU: kernels themselves, beside attention row by row and a model's own layers."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, Olmo3Config  # noqa: E402

from benchmarks import liger  # noqa: E402
from worker.kernels import flash_attention, varlen_attention  # noqa: E402
from worker.packing.collate import pack  # noqa: E402

pytestmark = pytest.mark.gpu
GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="no GPU")
HEADS = flash_attention.Heads(torch.device("cuda"), torch.bfloat16, 128, 8, 2, windowed=True)
LENGTHS = (300, 1, 1700, 64, 513)


@needs_gpu
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("window", [None, 2, 100])
@pytest.mark.parametrize("name", ["auto", *flash_attention.NAMES])
def test_each_kernel_here_computes_what_rows_by_themselves_do(
    name: str, window: int | None, size: int
) -> None:
    heads, reasons = replace(HEADS, size=size), list[str]()
    kernel = next(flash_attention._candidates(name, heads, reasons), None)
    if kernel is None and name != "auto":
        pytest.skip("; ".join(reasons))
    assert kernel is not None, "every GPU since Ampere has torch's own"
    assert flash_attention.trouble(kernel, heads) is None
    assert flash_attention.trouble(kernel, heads, train=False) is None
    draw = torch.Generator("cuda").manual_seed(0)
    tokens = sum(LENGTHS)
    q, k, v, grad = (
        torch.randn(1, heads, tokens, size, generator=draw, device="cuda", dtype=torch.bfloat16)
        for heads in (8, 2, 2, 8)
    )
    exact = [x.float().requires_grad_() for x in (q, k, v)]
    expected = varlen_attention._by_row(*exact, LENGTHS, None, window)[0]
    line = [x[0].transpose(0, 1).requires_grad_() for x in (q, k, v)]
    ends = torch.tensor([0, *LENGTHS], device="cuda").cumsum(0).to(torch.int32)
    bounds = flash_attention.Bounds(ends, max(LENGTHS))
    found = kernel.run(*line, bounds, bounds, None, window)
    wanted = grad[0].transpose(0, 1)
    pairs = [(found, expected)]
    for one, other in zip(
        torch.autograd.grad(found, line, wanted),
        torch.autograd.grad(expected, exact, wanted.float()),
        strict=True,
    ):
        pairs.append((one, other[0].transpose(0, 1)))
    for one, other in pairs:
        assert (one.float() - other).norm() <= 0.02 * other.norm()


@needs_gpu
def test_a_model_on_a_gpu_trains_by_one_kernel() -> None:
    config = Olmo3Config(**{**liger.SHAPE, "head_dim": 64}, sliding_window=5)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.bfloat16, attn_implementation=varlen_attention.register()
    ).cuda()
    varlen_attention.configure(model)
    rows = [torch.randint(2, 61, (length,)) for length in (7, 12)]
    line = pack(rows, [row.clone() for row in rows])
    line = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in line.items()}
    model(**line, use_cache=False).loss.backward()
    said = varlen_attention.ran()
    assert said is not None and said.startswith(("torch varlen", "flash-attn"))
    assert "rows by sdpa" not in said


@pytest.mark.skipif(not (GPU or liger.INTERPRETED), reason="no GPU")
@pytest.mark.parametrize("family", liger.FAMILIES)
def test_ligers_layers_change_neither_loss_nor_gradients(family: str) -> None:
    pytest.importorskip("liger_kernel")
    # A process of its own: Liger changes the family's module for as long as it is imported.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        found = process.submit(liger.compare, family, "cuda" if GPU else "cpu").result()
    assert len(found.replaced) >= 2 and found.kernels.startswith("liger ")
    assert not found.left
    assert found.loss_with == pytest.approx(found.loss, rel=1e-5)
    assert found.gradient_off <= 1e-4 * found.gradient
