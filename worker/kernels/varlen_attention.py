"""Attention over rows that lie one after the other in one line, each row seeing itself alone.

Registered with Transformers as `segments`. Rows are told apart by `cu_seq_lens_q`, the positions at
which they begin, so no mask is ever made: on a GPU one kernel runs them all (flash.py has which);
elsewhere each row is computed by itself, faster than any mask.

With sequence parallelism (Ulysses) a line's tokens lie on the devices of a group. Around attention
an all-to-all gives each device all tokens of some heads instead; the bounds are the whole line's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from jobspec.errors import SpecError
from worker.kernels import flash_attention

NAME = "segments"
# By window, dtype and device, that of the longest row so far: a shorter row's is its corner.
_masks: dict[tuple[int, torch.dtype, torch.device], torch.Tensor] = {}
_BEYOND = ("softcap", "dropout")  # what some models ask of attention and this one has not
_BY_ROW = "rows by sdpa"


@dataclass
class _Runs:
    """What this process runs rows with, for which heads, and what has run so far."""

    kernel: flash_attention.Kernel | None = None
    heads: flash_attention.Heads | None = None
    # The names, as keys: torch.compile traces an assignment to a dictionary's key.
    ran: dict[str, None] = field(default_factory=dict[str, None])


_runs = _Runs()


def register() -> str:
    """Make `segments` an attention implementation Transformers knows. Returns its name."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, segments)
    return NAME


def share(config: Any, size: int) -> None:
    """Let `segments` run lines whose tokens lie on `size` ranks, next to each other. All call it.

    Args:
        config: the model's; its heads must be a multiple of `size`, those of keys a multiple or a
            divisor of it.

    Raises:
        SpecError: they are not.
    """
    # Imported here: no run without sequence parallelism needs it.
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    text = config.get_text_config()
    if config._attn_implementation != NAME:
        raise SpecError(
            f"`{text.model_type}` needs attention of its own, which sees one device's tokens alone",
            place="$.train.sequence_parallel",
            hint="set it to 1",
        )
    heads = text.num_attention_heads
    shared = getattr(text, "num_key_value_heads", None) or heads
    if heads % size or (shared % size and size % shared):
        raise SpecError(
            f"`{size}` devices can't share {heads} attention heads with {shared} of keys evenly",
            place="$.train.sequence_parallel",
            hint=f"a divisor of {heads} that is a divisor or a multiple of {shared} can",
        )
    dealt = UlyssesSPAttentionHF(
        attn=segments,
        batch_size=1,
        attn_head_count=heads,
        attn_head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        kv_head_count=shared,
        num_hidden_layers=text.num_hidden_layers,
        process_group=_group(size),
        seq_length_is_variable=True,
    )
    ALL_ATTENTION_FUNCTIONS.register(NAME, dealt)


def _group(size: int) -> Any:
    """This rank's group; every rank makes every group, in the same order."""
    starts = range(0, dist.get_world_size(), size)
    groups = [dist.new_group(list(range(start, start + size))) for start in starts]
    return groups[dist.get_rank() // size]


def choose(asked: str) -> str:
    """The attention to load a model with: rows without padding, by default and by FlashAttention.

    Args:
        asked: the spec's `attn_implementation`.
    """
    return register() if asked == "auto" or asked in flash_attention.NAMES else asked


def settle(model: Any, asked: str = "auto") -> None:
    """Give a model whose attention does more than `segments` its own again; it is then padded.

    Gemma 2 caps attention's logits, gpt-oss adds sinks to them; some are trained with dropout.
    For others, on a GPU, the kernel is chosen and tried: see `flash.choose`.

    Raises:
        SpecError: the kernel that was asked for can't run this model here.
    """
    text = model.config.get_text_config()
    more = (
        getattr(text, "attn_logit_softcapping", None) is not None
        or getattr(text, "attention_dropout", 0.0) > 0
        or text.model_type == "gpt_oss"
    )
    _runs.kernel, _runs.heads, _runs.ran = None, None, {}
    if model.config._attn_implementation != NAME:
        return
    if more:
        model.set_attn_implementation("eager" if asked == "auto" else asked)
        return
    _runs.heads = _heads(text, model.dtype)
    _runs.kernel = flash_attention.choose(asked, _runs.heads)


def _heads(text: Any, dtype: torch.dtype) -> flash_attention.Heads:
    count = text.num_attention_heads
    return flash_attention.Heads(
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=dtype,
        size=getattr(text, "head_dim", None) or text.hidden_size // count,
        count=count,
        shared=getattr(text, "num_key_value_heads", None) or count,
        windowed=getattr(text, "sliding_window", None) is not None,
    )


def ran() -> str | None:
    """What has computed attention since the model was settled; None if not `segments`."""
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
        query: [1, heads, tokens, head_dim]; key and value likewise, perhaps with fewer heads.
        attention_mask: must be None: rows are told apart by their bounds.
        sliding_window: keys a query sees, itself included; None for all of its row's before it.
        kwargs: `cu_seq_lens_q` int32 [rows + 1] and `max_length_q`, the longest row's tokens;
            `row_lengths` saves reading them off a device.

    Returns:
        [1, tokens, heads, head_dim], and None for the weights.
    """
    bounds = kwargs.get("cu_seq_lens_q")
    if unknown := [name for name in _BEYOND if kwargs.get(name)]:
        raise ValueError(f"`segments` attention has no {', '.join(unknown)}")
    if bounds is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError("`segments` attention runs rows laid end to end, with bounds and no mask")
    longest = int(kwargs["max_length_q"])
    window = None if sliding_window is None or sliding_window >= longest else sliding_window
    if (kernel := _kernel_for(query)) is not None:
        _runs.ran[kernel.name] = None
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return kernel.run(q, k, v, bounds, longest, scaling, window)[None], None
    _runs.ran[_BY_ROW] = None
    lengths = kwargs.get("row_lengths") or [end - at for at, end in pairwise(bounds.tolist())]
    return _by_row(query, key, value, lengths, scaling, window), None


def _kernel_for(query: torch.Tensor) -> flash_attention.Kernel | None:
    """The kernel that was tried, if with such heads."""
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
    # Split, not sliced: the gradient of each slice would be a whole line of zeros but for its row.
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
    return torch.cat(rows, dim=2).transpose(1, 2)


def _window_mask(length: int, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """What to add to a row's scores: 0 within the window, else -inf; a view, not to be written."""
    if window is None or window >= length:
        return None
    known = _masks.get((window, like.dtype, like.device))
    if known is None or len(known) < length:
        ones = torch.ones(length, length, dtype=torch.bool, device=like.device)
        outside = ~(ones.tril() & ones.triu(1 - window))
        known = torch.zeros_like(outside, dtype=like.dtype).masked_fill_(outside, float("-inf"))
        _masks[window, like.dtype, like.device] = known
    return known[:length, :length]
