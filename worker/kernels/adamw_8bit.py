"""AdamW whose moments are kept in 8 bits, with torchao's quantization.

Both moments of a weight take 2.03 bytes instead of 8; 256 weights share a scale (Dettmers et al.
2021). The update itself is computed in float32.

torchao's own optimizer updates a parameter as a whole, which uncompiled takes some 60 bytes a
weight; it compiles on CPUs too, which takes a compiler; and it keeps the moments of a parameter in
float32 if its size is no multiple of 256. DeepSpeed hands over a group of weights as one flat
parameter of any size. So here it is updated in pieces of equal size, the last one padded. On GPUs
the update of a piece is compiled, if the compiled one agrees with the uncompiled one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torchao
from torch.nn.functional import pad
from torchao.optim import AdamW8bit
from torchao.optim.adam import single_param_adam
from torchao.optim.subclass_8bit import OptimState8bit

_SHOWN = f"adamw_8bit, torchao {torchao.__version__}"
_BLOCK = 256  # weights whose moments share a scale
_PIECE = {"cuda": 1 << 23, "cpu": 1 << 18}  # weights updated at once
_MOMENTS = {"exp_avg": True, "exp_avg_sq": False}  # and whether a moment has a sign
_MAX_DIFFERENCE = 1e-3  # of compiled updates, by norms; a moment may be rounded the other way

Update = Callable[..., None]


class FlatAdamW8bit(AdamW8bit):
    """AdamW with 8-bit moments for flat parameters of any size.

    Attributes:
        kernel: what updates the weights, for the record.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, block_size=_BLOCK, **kwargs)
        self._update: Update | None = None
        self.kernel = ""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(group, parameter)

    def _step(self, group: dict[str, Any], parameter: torch.Tensor) -> None:
        state = self.state[parameter]
        state.setdefault("step", torch.tensor(0.0))
        for name, signed in _MOMENTS.items():
            state[name] = _quantized(state.get(name), parameter, signed=signed)
        state["step"] += 1
        assert parameter.grad is not None
        weights, gradients = parameter.detach().view(-1), parameter.grad.view(-1)
        if self._update is None:
            self._update, self.kernel = _chosen(weights.device)
        for start in range(0, weights.numel(), size := _PIECE[weights.device.type]):
            piece = slice(start, start + size)
            moments = [state[name][start : start + size] for name in _MOMENTS]
            self._update_piece(group, weights[piece], gradients[piece], state["step"], moments)

    def _update_piece(
        self,
        group: dict[str, Any],
        weights: torch.Tensor,
        gradients: torch.Tensor,
        step: torch.Tensor,
        moments: list[torch.Tensor],
    ) -> None:
        missing = moments[0].numel() - weights.numel()
        full = weights.numel() == _PIECE[weights.device.type]
        update = self._update if full and self._update is not None else single_param_adam
        updated = pad(weights, (0, missing)) if missing else weights
        update(
            updated, pad(gradients, (0, missing)) if missing else gradients, step, moments[0],
            moments[1], None, group["lr"], group["betas"][0], group["betas"][1],
            group["weight_decay"], group["eps"], True, False,
        )  # fmt: skip
        if missing:
            weights.copy_(updated[: weights.numel()])


def _quantized(
    moment: torch.Tensor | None, parameter: torch.Tensor, *, signed: bool
) -> OptimState8bit:
    """A moment in 8 bits: as it is, zero, or one in float32, which a converted checkpoint has."""
    if isinstance(moment, OptimState8bit):
        return moment
    size = -(-parameter.numel() // _BLOCK) * _BLOCK
    found = OptimState8bit.zeros((size,), signed, _BLOCK, parameter.device, parameter.dtype)
    if moment is not None:
        for start in range(0, parameter.numel(), step := _PIECE[parameter.device.type]):
            part = moment.view(-1)[start : start + step]
            target = found[start : start + step]
            target.copy_(pad(part, (0, target.numel() - part.numel())))
    return found


def _chosen(device: torch.device) -> tuple[Update, str]:
    """What updates a full piece on a device, and its name."""
    if device.type == "cpu":
        return single_param_adam, f"{_SHOWN}, not compiled"
    return _compiled(device)


def _compiled(device: torch.device) -> tuple[Update, str]:
    """The compiled update, if it can be compiled and agrees with the uncompiled one."""
    try:
        compiled = torch.compile(single_param_adam, fullgraph=True, dynamic=False)
        off = _difference(compiled, device)
        if off < _MAX_DIFFERENCE:
            return compiled, f"{_SHOWN}, compiled"
        reason = f"the compiled update is off by {off:.1e}"
    except Exception as error:  # a compiler that is missing or broken may raise anything
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    sys.stderr.write(f"train: the optimizer's update is not compiled: {reason}\n")
    return single_param_adam, f"{_SHOWN}, not compiled: {reason}"


def _difference(update: Update, device: torch.device) -> float:
    """How much two updates differ from uncompiled ones, relative to them, by norms."""
    draw = torch.Generator(device).manual_seed(0)
    size = (_PIECE[device.type],)
    weights, gradients = (torch.randn(size, generator=draw, device=device) for _ in range(2))
    results = [weights]
    for each in (single_param_adam, update):
        updated = weights.clone()
        moments = [OptimState8bit.zeros(size, sign, _BLOCK, device) for sign in _MOMENTS.values()]
        rate = torch.tensor(1e-3)
        for step in (torch.tensor(1.0), torch.tensor(2.0)):
            each(
                updated, gradients, step, moments[0], moments[1], None, rate, 0.9, 0.95, 0.1, 1e-6,
                True, False,
            )  # fmt: skip
        results.append(updated)
    before, expected, actual = results
    return ((actual - expected).norm() / (expected - before).norm()).item()
