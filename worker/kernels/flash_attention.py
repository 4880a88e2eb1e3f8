"""Which kernel runs rows laid end to end on a GPU: FlashAttention where installed, else torch's.

The packages' own public function is called, not torch's registry of them (`torch.nn.attention`,
`activate_flash_attention_impl`): that one turns over all attention of the process, calls private
operators whose arguments must be those of its own day, and raises where a kernel can't serve.

A kernel is used only after it has run a few small rows, forwards and backwards, with the model's
heads, on the device that will train, and agreed with attention by its definition (see `trouble`).
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from jobspec.errors import SpecError
from worker.kernels.liger import BRINGS

# (query, key, value, bounds, longest, scale, window) -> out. Tensors [tokens, heads, head_dim],
# bounds int32 [rows + 1]; the window as in `attention.segments`, None for none.
Run = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, float | None, int | None],
    torch.Tensor,
]
# FlashAttention 3 before a torch varlen that is FlashAttention 2, which needs its package only
# where torch's can't be used.
_ORDER = ("flash_attention_3", "flash_attention_4", "torch", "flash_attention_2")
_ROWS = (3, 70, 1, 40)  # tokens of the rows a kernel is tried with
_WINDOW = 9
# Norm of the difference by that of what is expected. All steps in bfloat16, more roundings than a
# kernel has, are at 0.006; a window off by one is at 0.28, the usual scale at 0.17.
_MOST_OFF = 0.02


@dataclass(frozen=True)
class Kernel:
    """A way to run rows: `name` with its version, as it is recorded."""

    name: str
    run: Run


@dataclass(frozen=True)
class Heads:
    """What a kernel must be able to do for a model.

    Source: torch/nn/attention/varlen.py and sdp_utils.cpp, `check_head_dim_size_flash`;
    hopper/flash_api.cpp: 16 bits, heads of at most 256 in eighths.
    """

    device: torch.device
    dtype: torch.dtype
    size: int
    count: int
    shared: int  # heads of keys and values
    windowed: bool = False

    @property
    def usual(self) -> bool:
        """Whether any kernel could run them."""
        sixteen = self.dtype in (torch.bfloat16, torch.float16)
        return sixteen and self.size <= 256 and self.size % 8 == 0


@dataclass(frozen=True)
class _Package:
    module: str
    distribution: str
    shown: str
    majors: range  # of the compute capabilities it has kernels for
    no_window: tuple[int | None, int | None] = (-1, -1)

    def kernel(self) -> Kernel:
        """Raises ImportError or OSError where it is missing or built for another torch."""
        try:
            version = metadata.version(self.distribution)
        except metadata.PackageNotFoundError as error:
            raise ImportError(f"`{self.distribution}` is not installed") from error
        called = importlib.import_module(self.module).flash_attn_varlen_func
        return Kernel(f"{self.shown} {version}", functools.partial(_packaged, called, self))


_PACKAGES = {
    "flash_attention_2": _Package(
        "flash_attn", BRINGS["flash_attention_2"][0], "flash-attn 2", range(8, 13)
    ),
    "flash_attention_3": _Package(
        "flash_attn_interface", BRINGS["flash_attention_3"][0], "flash-attn 3", range(9, 10)
    ),
    "flash_attention_4": _Package(
        "flash_attn.cute",
        BRINGS["flash_attention_4"][0],
        "flash-attn 4",
        range(9, 11),
        (None, None),
    ),
}
NAMES = tuple(_PACKAGES)


def choose(asked: str, heads: Heads) -> Kernel | None:
    """The kernel to train with.

    Args:
        asked: a name of `NAMES`, or `auto`: the fastest of those that are right.

    Returns:
        None, with `auto` alone: no kernel can run these.

    Raises:
        SpecError: the one that was asked for can't; with the reason.
    """
    reasons: list[str] = []
    for kernel in _candidates(asked, heads, reasons):
        reason = trouble(kernel, heads)
        if reason is None:
            return kernel
        reasons.append(f"{kernel.name}: {reason}")
    if asked == "auto":
        return None
    raise SpecError(
        f"`{asked}` can't train this model on this device: {'; '.join(reasons)}",
        place="$.model.attn_implementation",
        hint='"auto" takes the fastest that can',
    )


def _candidates(asked: str, heads: Heads, reasons: list[str]) -> Iterator[Kernel]:
    """Those installed and made for the device, best first; what is against the others is added."""
    major = capability(heads.device)
    if major is None or not heads.usual:
        reasons.append(f"{heads.dtype} with heads of {heads.size} on {heads.device.type}")
        return
    for name in _ORDER if asked == "auto" else (asked,):
        package = _PACKAGES.get(name)
        if package is not None and major not in package.majors:
            reasons.append(f"{package.shown} has no kernels for compute capability {major}")
            continue
        try:
            yield package.kernel() if package is not None else _torchs(major)
        except (ImportError, OSError) as error:  # OSError: a library it is linked with is missing
            reasons.append(str(error))


def capability(device: torch.device) -> int | None:
    """The generation of a GPU: 8 is Ampere, 9 Hopper, 10 Blackwell; None for what is none."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else None


def _torchs(major: int) -> Kernel:
    """Torch's own variable-length attention: FlashAttention 2, without a package."""
    from torch.nn.attention.varlen import varlen_attn  # not before torch 2.10

    if major < 8:
        raise ImportError(f"torch's own has no kernels for compute capability {major}")
    accepted = tuple(inspect.signature(varlen_attn).parameters)
    return Kernel(
        f"torch varlen {torch.__version__}",
        functools.partial(_torch_varlen, varlen_attn, accepted),
    )


def _torch_varlen(
    called: Callable[..., Any],
    accepted: tuple[str, ...],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Call `varlen_attn` with the parameters it accepts; they differ between torch 2.10 and 2.13.

    2.10 has `is_causal` and neither scale nor window. 2.11 has both, and serves grouped heads
    without the `enable_gqa` that later versions require for them.
    """
    options: dict[str, Any] = {}
    if "window_size" in accepted:
        # A window of w keys, the query's own included, reaches w - 1 to the left.
        options["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        options["is_causal"] = True
    else:
        raise NotImplementedError("torch's own attention has no windows before torch 2.11")
    if "scale" in accepted:
        options["scale"] = scale
    elif scale is not None:
        q = q * (scale * q.shape[-1] ** 0.5)
    if "enable_gqa" in accepted:
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    return called(q, k, v, bounds, bounds, longest, longest, **options)


def _packaged(
    called: Callable[..., Any],
    package: _Package,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    # By name: 2, 3 and 4 have these in different places. What is left out has no dropout.
    out = called(
        q=q,
        k=k,
        v=v,
        cu_seqlens_q=bounds,
        cu_seqlens_k=bounds,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        softmax_scale=scale,
        causal=True,
        window_size=package.no_window if window is None else (window - 1, 0),
    )
    # 4, and 3 in its first versions, give the softmax's normalizers too.
    return out[0] if isinstance(out, tuple) else out


def trouble(kernel: Kernel, heads: Heads) -> str | None:
    """What is wrong with a kernel's values or gradients on a few small rows; None if nothing.

    Not to be called within a forward pass: it runs a backward pass of its own. Leaves the random
    state alone.
    """
    try:
        with torch.autocast(heads.device.type, enabled=False):
            for window in (None, _WINDOW) if heads.windowed else (None,):
                if off := _most_off(kernel.run, heads, window):
                    return off
    except Exception as error:  # whatever a package made for another torch, driver or GPU raises
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


def _most_off(run: Run, heads: Heads, window: int | None) -> str | None:
    tokens = sum(_ROWS)
    draw = torch.Generator(heads.device).manual_seed(0)
    q, k, v, grad = (
        torch.randn(tokens, count, heads.size, generator=draw, device=heads.device)
        .to(heads.dtype)
        .requires_grad_()
        for count in (heads.count, heads.shared, heads.shared, heads.count)
    )
    ends = torch.tensor([0, *_ROWS], device=heads.device).cumsum(0).to(torch.int32)
    # Not what the kernel would take by itself, so that one that ignores it is seen.
    scale = 1.3 * heads.size**-0.5
    found = run(q, k, v, ends, max(_ROWS), scale, window)
    right = _by_definition(q, k, v, scale, window)
    pairs = zip(
        (found, *torch.autograd.grad(found, (q, k, v), grad.detach())),
        (right, *torch.autograd.grad(right, (q, k, v), grad.detach().to(right.dtype))),
        strict=True,
    )
    for name, (a, b) in zip(("output", "dq", "dk", "dv"), pairs, strict=True):
        off = ((a.float() - b.float()).norm() / b.float().norm()).item()
        if not off < _MOST_OFF:  # NaN is off too
            return f"{name} is off by {off:.1%}{'' if window is None else ' with a window'}"
    return None


def _by_definition(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    """All scores of the line at once, those beyond a row or a window left out, in float32."""
    row = torch.repeat_interleave(torch.tensor(_ROWS)).to(q.device)
    back = (at := torch.arange(len(row), device=q.device))[:, None] - at
    seen = (row[:, None] == row) & (back >= 0) & (back < (window or len(row)))
    out = scaled_dot_product_attention(
        *(x.float().transpose(0, 1)[None] for x in (q, k, v)),
        attn_mask=seen,
        scale=scale,
        enable_gqa=True,
    )
    return out[0].transpose(0, 1)
