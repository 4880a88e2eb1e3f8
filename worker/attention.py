"""Attention over rows that lie one after the other in one line, each row seeing itself alone.

Registered with Transformers as `segments`. Rows are told apart by `cu_seq_lens_q`, the positions at
which they begin, so no mask is ever made: on a GPU torch's variable-length flash attention runs
them in one call; on a CPU each row is computed by itself, which is faster there than any mask.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

NAME = "segments"
_GROUPED = varlen_attn is not None and "enable_gqa" in inspect.signature(varlen_attn).parameters
_WINDOWED = varlen_attn is not None and "window_size" in inspect.signature(varlen_attn).parameters


def register() -> str:
    """Make `segments` an attention implementation Transformers knows. Returns its name."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, segments)
    return NAME


def choose(asked: str) -> str:
    """The attention to load a model with: by default the one that runs rows without padding."""
    return register() if asked == "auto" else asked


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
        kwargs: `cu_seq_lens_q` int32 [rows + 1] and `max_length_q`, the longest row's tokens.

    Returns:
        [1, tokens, heads, head_dim], and None for the weights.
    """
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError("`segments` attention runs rows laid end to end, with bounds and no mask")
    if query.is_cuda and varlen_attn is not None:
        longest = int(kwargs["max_length_q"])
        return _flash(query, key, value, bounds, longest, scaling, sliding_window), None
    return _by_row(query, key, value, bounds, scaling, sliding_window), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    assert varlen_attn is not None
    groups = query.shape[1] // key.shape[1]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    options: dict[str, Any] = {"scale": scaling}
    if _GROUPED:
        options["enable_gqa"] = groups > 1
    elif groups > 1:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    if _WINDOWED:
        # A window of w keys, the query's own included, reaches w - 1 to the left.
        options["window_size"] = (-1 if window is None or window >= longest else window - 1, 0)
    elif window is not None and window < longest:
        raise ValueError("this torch's variable-length attention has no sliding window")
    else:
        options["is_causal"] = True
    out: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
    return out[None]


def _by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    edges = bounds.tolist()
    rows = [
        scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            attn_mask=_window_mask(end - start, window, query),
            is_causal=window is None or window >= end - start,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for start, end in pairwise(edges)
    ]
    return torch.cat(rows, dim=2).transpose(1, 2)


def _window_mask(length: int, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    if window is None or window >= length:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=like.device)
    return ones.tril() & ones.triu(1 - window)
