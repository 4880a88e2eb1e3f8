"""Attention over packed rows: the rows are concatenated, and each row attends only to itself.

Registered with Transformers as `segments`. `cu_seq_lens_q` gives the start of each row, so no mask
is needed. On a GPU one variable-length kernel runs all rows (see `flash_attention`). On a CPU each
row is computed separately, which is faster than attention with a mask.

With sequence parallelism (Ulysses), the tokens of a pack are sharded over the devices of a group.
For attention, an all-to-all gives each device all tokens of some heads. `cu_seq_lens_q` always
describes the whole pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.heterogeneity import AmbiguousGlobalPerLayerAttributeError
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from jobspec.errors import SpecError
from worker.kernels import flash_attention

NAME = "segments"
# The mask of the longest row so far, by window, dtype and device; a shorter row uses its corner.
_masks: dict[tuple[int, torch.dtype, torch.device], torch.Tensor] = {}
_UNSUPPORTED = ("softcap", "dropout")  # options of attention that some models use
_BY_ROW = "rows by sdpa"


@dataclass
class _Runs:
    """The kernel of this process, the heads it was tested for, and what has run so far."""

    kernel: flash_attention.Kernel | None = None
    heads: flash_attention.Heads | None = None
    # A dictionary instead of a set, because torch.compile can trace an assignment to a key.
    ran: dict[str, None] = field(default_factory=dict[str, None])


_runs = _Runs()


def register() -> str:
    """Register `segments` with Transformers. Returns its name."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, segments)
    return NAME


def enable_sequence_parallel(config: Any, size: int) -> None:
    """Let `segments` run packs whose tokens are sharded over `size` ranks. All ranks call it.

    Args:
        config: the model's. Its number of heads must be a multiple of `size`, and its number of
            key-value heads a multiple or a divisor.
        size: ranks per group.

    Raises:
        SpecError: the model's attention or its numbers of heads do not allow it.
    """
    # Imported here because only sequence parallelism needs it.
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    text = config.get_text_config()
    if config._attn_implementation != NAME:
        raise SpecError(
            f"`{text.model_type}` needs its own attention, which can't use sequence parallelism",
            place="$.train.sequence_parallel",
            hint="set it to 1",
        )
    heads = text.num_attention_heads
    shared = getattr(text, "num_key_value_heads", None) or heads
    if heads % size or (shared % size and size % shared):
        raise SpecError(
            f"`{size}` devices can't divide {heads} attention heads and {shared} key-value heads",
            place="$.train.sequence_parallel",
            hint=f"choose a divisor of {heads} that is a divisor or a multiple of {shared}",
        )
    sharded = UlyssesSPAttentionHF(
        attn=segments,
        batch_size=1,
        attn_head_count=heads,
        attn_head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        kv_head_count=shared,
        num_hidden_layers=text.num_hidden_layers,
        process_group=_group(size),
        seq_length_is_variable=True,
    )
    ALL_ATTENTION_FUNCTIONS.register(NAME, sharded)


def _group(size: int) -> Any:
    """This rank's group. Every rank creates all groups in the same order, as torch requires."""
    starts = range(0, dist.get_world_size(), size)
    groups = [dist.new_group(list(range(start, start + size))) for start in starts]
    return groups[dist.get_rank() // size]


def configure(model: Any, asked: str = "auto") -> None:
    """Choose and test the kernel for a loaded model; none unless it uses `segments`.

    Args:
        model: the loaded model.
        asked: the spec's `attn_implementation`.

    Raises:
        SpecError: the requested kernel can't run this model here.
    """
    _runs.kernel, _runs.heads, _runs.ran = None, None, {}
    if model.config._attn_implementation != NAME:
        return
    _runs.heads = heads_of(model)
    if _runs.heads is not None:
        _runs.kernel = flash_attention.choose(asked, _runs.heads)


def forget_runs() -> None:
    """Let `ran` report only what runs from now on."""
    _runs.ran = {}


def heads_of(model: Any) -> flash_attention.Heads | None:
    """The heads of a model's attention; None if it has none or each layer has its own."""
    text = model.config.get_text_config()
    try:
        count = text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // count
    except (AttributeError, AmbiguousGlobalPerLayerAttributeError):
        return None
    return flash_attention.Heads(
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=model.dtype,
        size=size,
        count=count,
        shared=getattr(text, "num_key_value_heads", None) or count,
        windowed=getattr(text, "sliding_window", None) is not None,
    )


def ran() -> str | None:
    """What computed attention since `configure`; None if it was not `segments`."""
    return ", ".join(sorted(_runs.ran)) or None


def segments(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row.

    Args:
        query: [1, heads, tokens, head_dim]; key and value too, perhaps with fewer heads.
        attention_mask: must be None; `cu_seq_lens_q` separates the rows.
        sliding_window: number of keys that a query attends to, including its own; None for all.
        kwargs: `cu_seq_lens_q` int32 [rows + 1] and `max_length_q`, the tokens of the longest row;
            `row_lengths` avoids reading the lengths back from a device.

    Returns:
        [1, tokens, heads, head_dim], and None for the weights.
    """
    bounds = kwargs.get("cu_seq_lens_q")
    if unknown := [name for name in _UNSUPPORTED if kwargs.get(name)]:
        raise ValueError(f"`segments` attention does not support {', '.join(unknown)}")
    if bounds is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError("`segments` attention needs packed rows with `cu_seq_lens_q` and no mask")
    longest = int(kwargs["max_length_q"])
    window = None if sliding_window is None or sliding_window >= longest else sliding_window
    if (kernel := _kernel_for(query)) is not None:
        _runs.ran[kernel.name] = None
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        rows = flash_attention.Bounds(bounds, longest)
        return kernel.run(q, k, v, rows, rows, scaling, window)[None], None
    _runs.ran[_BY_ROW] = None
    lengths = kwargs.get("row_lengths") or [end - at for at, end in pairwise(bounds.tolist())]
    return _by_row(query, key, value, lengths, scaling, window), None


def _kernel_for(query: torch.Tensor) -> flash_attention.Kernel | None:
    """The tested kernel, if it was tested for these heads."""
    heads = _runs.heads
    tried = heads is not None and (heads.device.type, heads.dtype, heads.size) == (
        query.device.type,
        query.dtype,
        query.shape[-1],
    )
    return _runs.kernel if tried else None


def _by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[int],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    # Split instead of sliced: the gradient of a slice is as large as the whole pack.
    parts = zip(lengths, *(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    rows = [
        scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_window_mask(length, window, query),
            is_causal=window is None or window >= length,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for length, q, k, v in parts
    ]
    return torch.cat([row.transpose(1, 2) for row in rows], dim=1)


def _window_mask(length: int, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """What to add to a row's scores: 0 within the window, else -inf. Do not modify it."""
    if window is None or window >= length:
        return None
    known = _masks.get((window, like.dtype, like.device))
    if known is None or len(known) < length:
        ones = torch.ones(length, length, dtype=torch.bool, device=like.device)
        outside = ~(ones.tril() & ones.triu(1 - window))
        known = torch.zeros_like(outside, dtype=like.dtype).masked_fill_(outside, float("-inf"))
        _masks[window, like.dtype, like.device] = known
    return known[:length, :length]
