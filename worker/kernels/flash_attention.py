"""Chooses the kernel for rows of any length on a GPU: FlashAttention if installed, or torch's.

Training runs packed rows with it, and continuous batching the samples that it is generating.

It calls the public function of the packages instead of torch's registry (`torch.nn.attention`,
`activate_flash_attention_impl`). The registry changes all attention of the process, calls private
operators whose arguments differ between versions, and raises if a kernel can't be used.

A kernel is used only after a test: it runs a few small rows, with the model's heads on the device
and backwards too if it is to train, and must agree with plain attention in float32 (`trouble`).
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from jobspec.errors import SpecError
from worker.kernels.liger import ATTENTION_PACKAGES


class Bounds(NamedTuple):
    """Where the rows of a tensor of tokens begin and end.

    Attributes:
        ends: int32 [rows + 1], the cumulative lengths, beginning with 0.
        longest: tokens of the longest row.
    """

    ends: torch.Tensor
    longest: int


# (query, key, value, bounds of the queries, bounds of the keys, scale, window) -> out. Tensors
# [tokens, heads, head_dim]. A row's last query is aligned with its last key; the window as in
# `varlen_attention.segments`.
Run = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Bounds, Bounds, float | None, int | None],
    torch.Tensor,
]
# Fastest first. Torch's varlen attention is FlashAttention 2; the package of that name comes last,
# for devices and versions on which torch's can't be used.
_ORDER = ("flash_attention_3", "flash_attention_4", "torch", "flash_attention_2")
# Queries and keys of the rows with which a kernel is tested: for training, and for generation,
# where most of a row's keys come from the cache.
_TRAINING = ((3, 3), (70, 70), (1, 1), (40, 40))
_GENERATION = ((1, 70), (40, 40), (1, 1), (3, 43))
_WINDOW = 9
# Limit of the relative error (by norms). With every operation rounded to bfloat16, more than any
# kernel does, it is 0.006; with a window that is off by one 0.28, with the wrong scale 0.17.
_MAX_ERROR = 0.02


@dataclass(frozen=True)
class Kernel:
    """A kernel. `name` includes its version and is recorded in the manifest."""

    name: str
    run: Run


@dataclass(frozen=True)
class Heads:
    """The attention heads of a model, which a kernel must support.

    Source: torch/nn/attention/varlen.py and sdp_utils.cpp, `check_head_dim_size_flash`;
    hopper/flash_api.cpp: 16-bit types, head dimensions up to 256 that are multiples of 8.
    """

    device: torch.device
    dtype: torch.dtype
    size: int
    count: int
    shared: int  # heads of keys and values
    windowed: bool = False

    @property
    def usual(self) -> bool:
        """Whether any kernel supports them."""
        sixteen = self.dtype in (torch.bfloat16, torch.float16)
        return sixteen and self.size <= 256 and self.size % 8 == 0


@dataclass(frozen=True)
class _Package:
    module: str
    distribution: str
    shown: str
    majors: range  # major compute capabilities for which it has kernels
    no_window: tuple[int | None, int | None] = (-1, -1)

    def kernel(self) -> Kernel:
        """The kernel. Raises ImportError or OSError if it is missing or built for another torch."""
        try:
            version = metadata.version(self.distribution)
        except metadata.PackageNotFoundError as error:
            raise ImportError(f"`{self.distribution}` is not installed") from error
        called = importlib.import_module(self.module).flash_attn_varlen_func
        return Kernel(f"{self.shown} {version}", functools.partial(_packaged, called, self))


_PACKAGES = {
    "flash_attention_2": _Package(
        "flash_attn", ATTENTION_PACKAGES["flash_attention_2"][0], "flash-attn 2", range(8, 13)
    ),
    "flash_attention_3": _Package(
        "flash_attn_interface",
        ATTENTION_PACKAGES["flash_attention_3"][0],
        "flash-attn 3",
        range(9, 10),
    ),
    "flash_attention_4": _Package(
        "flash_attn.cute",
        ATTENTION_PACKAGES["flash_attention_4"][0],
        "flash-attn 4",
        range(9, 11),
        (None, None),
    ),
}
NAMES = tuple(_PACKAGES)


def choose(asked: str, heads: Heads, *, train: bool = True) -> Kernel | None:
    """The kernel to train or generate with.

    Args:
        asked: one of `NAMES`, or `auto` for the fastest kernel that passes the test.
        heads: the model's.
        train: whether it is to train; otherwise it is to generate.

    Returns:
        None if no kernel can be used; only with `auto`.

    Raises:
        SpecError: the requested kernel can't be used; with the reason.
    """
    reasons: list[str] = []
    for kernel in _candidates(asked, heads, reasons):
        reason = trouble(kernel, heads, train=train)
        if reason is None:
            return kernel
        reasons.append(f"{kernel.name}: {reason}")
    if asked == "auto":
        return None
    raise SpecError(
        f"`{asked}` can't {'train' if train else 'run'} this model on this device: "
        f"{'; '.join(reasons)}",
        place="$.model.attn_implementation",
        hint='"auto" chooses the fastest kernel that can',
    )


def _candidates(asked: str, heads: Heads, reasons: list[str]) -> Iterator[Kernel]:
    """Installed kernels for the device, fastest first; `reasons` gets why others can't run."""
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
    """A GPU's major compute capability (8 Ampere, 9 Hopper, 10 Blackwell); None for a CPU."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else None


def _torchs(major: int) -> Kernel:
    """Torch's own variable-length attention, which is FlashAttention 2."""
    from torch.nn.attention.varlen import varlen_attn  # not before torch 2.10

    if major < 8:
        raise ImportError(f"torch's attention has no kernels for compute capability {major}")
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
    queries: Bounds,
    keys: Bounds,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Call `varlen_attn` with the parameters it accepts; they differ between torch 2.10 and 2.13.

    2.10 has `is_causal` but neither scale nor window. 2.11 has both, and supports grouped heads
    without `enable_gqa`, which later versions require.
    """
    options: dict[str, Any] = {}
    if "window_size" in accepted:
        # A window of w keys, the query's own included, reaches w - 1 to the left.
        options["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        options["is_causal"] = True
    else:
        raise NotImplementedError("torch's varlen attention has no windows before torch 2.11")
    if "scale" in accepted:
        options["scale"] = scale
    elif scale is not None:
        q = q * (scale * q.shape[-1] ** 0.5)
    if "enable_gqa" in accepted:
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    return called(q, k, v, queries.ends, keys.ends, queries.longest, keys.longest, **options)


def _packaged(
    called: Callable[..., Any],
    package: _Package,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: Bounds,
    keys: Bounds,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    # Keyword arguments, because versions 2, 3 and 4 order them differently. Dropout is off.
    out = called(
        q=q,
        k=k,
        v=v,
        cu_seqlens_q=queries.ends,
        cu_seqlens_k=keys.ends,
        max_seqlen_q=queries.longest,
        max_seqlen_k=keys.longest,
        softmax_scale=scale,
        causal=True,
        window_size=package.no_window if window is None else (window - 1, 0),
    )
    # Version 4, and early versions of 3, also return the normalizers of the softmax.
    return out[0] if isinstance(out, tuple) else out


def trouble(kernel: Kernel, heads: Heads, *, train: bool = True) -> str | None:
    """Test a kernel on small rows, and its gradients if it is to train. What is wrong, or None.

    Do not call it within a forward pass, because it runs a backward pass. It does not change the
    random state.
    """
    try:
        with torch.autocast(heads.device.type, enabled=False), torch.inference_mode(mode=False):
            for window in (None, _WINDOW) if heads.windowed else (None,):
                if off := _error_of(kernel.run, heads, window, train):
                    return off
    except (
        Exception
    ) as error:  # a package built for another torch, driver or GPU may raise anything
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


def _error_of(run: Run, heads: Heads, window: int | None, train: bool) -> str | None:
    lengths = _TRAINING if train else _GENERATION
    queries, keys = ([row[side] for row in lengths] for side in (0, 1))
    draw = torch.Generator(heads.device).manual_seed(0)
    q, k, v, grad = (
        torch.randn(sum(rows), count, heads.size, generator=draw, device=heads.device)
        .to(heads.dtype)
        .requires_grad_(train)
        for rows, count in (
            (queries, heads.count),
            (keys, heads.shared),
            (keys, heads.shared),
            (queries, heads.count),
        )
    )
    # Not the default scale, so that a kernel that ignores the scale fails.
    scale = 1.3 * heads.size**-0.5
    actual = run(q, k, v, _bounds(queries, heads), _bounds(keys, heads), scale, window)
    expected = _by_definition(q, k, v, lengths, scale, window)
    pairs = [("output", actual, expected)]
    if train:
        pairs += zip(
            ("dq", "dk", "dv"),
            torch.autograd.grad(actual, (q, k, v), grad.detach()),
            torch.autograd.grad(expected, (q, k, v), grad.detach().to(expected.dtype)),
            strict=True,
        )
    for name, a, b in pairs:
        off = ((a.float() - b.float()).norm() / b.float().norm()).item()
        if not off < _MAX_ERROR:  # also true for NaN
            return f"{name} is off by {off:.1%}{'' if window is None else ' with a window'}"
    return None


def _bounds(lengths: Sequence[int], heads: Heads) -> Bounds:
    ends = torch.tensor([0, *lengths], device=heads.device).cumsum(0).to(torch.int32)
    return Bounds(ends, max(lengths))


def _by_definition(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: Sequence[tuple[int, int]],
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Attention in float32, with a mask that allows only keys of the same row and window."""
    queries = [(n, keys - own + i) for n, (own, keys) in enumerate(lengths) for i in range(own)]
    cached = [(n, i) for n, (_, keys) in enumerate(lengths) for i in range(keys)]
    row_q, at_q = torch.tensor(queries, device=q.device)[:, :, None].unbind(1)
    row_k, at_k = torch.tensor(cached, device=q.device).unbind(1)
    back = at_q - at_k
    seen = (row_q == row_k) & (back >= 0) & (back < (window or len(cached)))
    out = scaled_dot_product_attention(
        *(x.float().transpose(0, 1)[None] for x in (q, k, v)),
        attn_mask=seen,
        scale=scale,
        enable_gqa=True,
    )
    return out[0].transpose(0, 1)
