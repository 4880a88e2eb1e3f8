"""AdamW with 8-bit moments: flat weights of any size, in pieces, saved and loaded bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchao.optim.adam import single_param_adam
from torchao.optim.subclass_8bit import OptimState8bit

from worker.kernels import adamw_8bit
from worker.kernels.adamw_8bit import FlatAdamW8bit

SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(adamw_8bit._PIECE, "cpu", 1024)


def train(weights: torch.Tensor, optimizer: torch.optim.Optimizer, steps: range) -> torch.Tensor:
    """Pull weights to 1, with noise that depends on the step alone."""
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        noise = torch.randn(weights.shape, generator=draw)
        weights.grad = (weights.detach() - 1 + noise).float()
        optimizer.step()
    return weights.detach().clone()


@pytest.mark.parametrize("size", [1, 255, 256, 1024, 5000, 6400])
def test_it_updates_like_torchao_s_on_the_whole_parameter(size: int) -> None:
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(size))
    padded = -(-size // 256) * 256
    expected = torch.zeros(padded)
    expected[:size] = weights.detach()
    moments = [OptimState8bit.zeros((padded,), signed, 256) for signed in (True, False)]
    optimizer = FlatAdamW8bit([weights], **SETTINGS)
    for step in range(1, 6):
        gradient = torch.zeros(padded)
        gradient[:size] = torch.randn(size)
        weights.grad = gradient[:size].clone()
        optimizer.step()
        single_param_adam(
            expected, gradient, torch.tensor(float(step)), *moments, None, torch.tensor(1e-3),
            0.9, 0.95, 0.1, 1e-6, True, False,
        )  # fmt: skip
    assert torch.equal(weights.detach(), expected[:size])
    assert optimizer.state[weights]["exp_avg"].codes.dtype == torch.uint8


def test_it_ends_near_adamw() -> None:
    torch.manual_seed(0)
    start = torch.randn(3000)
    ends: list[torch.Tensor] = []
    for kind in (torch.optim.AdamW, FlatAdamW8bit):
        weights = torch.nn.Parameter(start.clone())
        ends.append(train(weights, kind([weights], **SETTINGS), range(50)))
    moved = (ends[0] - start).abs().mean()
    assert (ends[1] - ends[0]).abs().mean() < 0.02 * moved


def test_what_was_saved_continues_bit_for_bit(tmp_path: Any) -> None:
    weights = torch.nn.Parameter(torch.zeros(3000))
    optimizer = FlatAdamW8bit([weights], **SETTINGS)
    middle = train(weights, optimizer, range(5))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    end = train(weights, optimizer, range(5, 10))

    again = torch.nn.Parameter(middle)
    resumed = FlatAdamW8bit([again], **SETTINGS)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=False))
    assert torch.equal(train(again, resumed, range(5, 10)), end)


def test_moments_in_float32_are_quantized_again() -> None:
    """A converted checkpoint has them. The codes stay the same.

    Scales shrink by at most 0.8 %, where the largest value of a block is negative: -1 has no code.
    """
    weights = torch.nn.Parameter(torch.zeros(3000))
    optimizer = FlatAdamW8bit([weights], **SETTINGS)
    train(weights, optimizer, range(5))
    state = optimizer.state[weights]
    for name, signed in adamw_8bit._MOMENTS.items():
        before = state[name]
        exact = before.dequantize()[:3000]
        after = adamw_8bit._quantized(exact, weights, signed=signed)
        assert torch.equal(after.codes[:3000], before.codes[:3000])
        assert torch.allclose(after.dequantize()[:3000], exact, rtol=0.01)


def test_an_update_that_cannot_be_compiled_runs_uncompiled(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler\nand more")

    cpu = torch.device("cpu")
    monkeypatch.setattr(torch, "compile", broken)
    assert adamw_8bit._chosen(cpu) == (single_param_adam, adamw_8bit._chosen(cpu)[1])
    update, name = adamw_8bit._compiled(cpu)
    assert update is single_param_adam
    assert name.endswith("not compiled: RuntimeError: no compiler")
    assert "not compiled: RuntimeError: no compiler\n" in capfd.readouterr().err


def test_a_compiled_update_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(weights: torch.Tensor, *args: Any) -> None:
        single_param_adam(weights, *args)
        weights += 1e-5

    monkeypatch.setattr(torch, "compile", lambda function, **options: wrong)
    update, name = adamw_8bit._compiled(torch.device("cpu"))
    assert update is single_param_adam
    assert "the compiled update is off by" in name
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    update, name = adamw_8bit._compiled(torch.device("cpu"))
    assert name.endswith(", compiled")
