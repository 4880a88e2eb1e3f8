"""Attention for continuous batching: the samples that are being generated form one batch.

Registered with Transformers under `NAME`. Transformers' paged cache returns the keys of every
sample, and one variable-length kernel runs them all (see `flash_attention`). Transformers' own
choices are `sdpa`, whose mask has a column for every key of every sample, and the packages of
FlashAttention. On a CPU each sample is computed separately; tests use that.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.kernels import varlen_attention
from worker.kernels.flash_attention import Bounds, Kernel, choose

# As of 5.19 Transformers makes no mask for continuous batching if the name contains "flash".
NAME = "jobspec_paged_flash"
_UNSUPPORTED = ("softcap", "s_aux")


class PagedAttention:
    """The attention of one model. Raises NotImplementedError if no kernel can run it on its GPU.

    Attributes:
        calls: how often a layer has called it.
    """

    def __init__(self, model: Any) -> None:
        self.calls = 0
        self.kernel: Kernel | None = None
        if model.device.type != "cpu":
            heads = varlen_attention.heads_of(model)
            self.kernel = None if heads is None else choose("auto", heads, train=False)
            if self.kernel is None:
                raise NotImplementedError("no attention kernel can run this model on this GPU")
        ALL_ATTENTION_FUNCTIONS.register(NAME, self._attend)

    def _attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Implement Transformers' attention interface. `query` is [1, heads, tokens, head_dim]."""
        if unknown := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
            raise NotImplementedError(f"attention with {', '.join(unknown)}")
        self.calls += 1
        # Writes the new keys, returns them with those of the cache, and updates `kwargs`.
        key, value = cache.update(
            key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs
        )
        queries = Bounds(kwargs["cu_seq_lens_q"], kwargs["max_length_q"])
        keys = Bounds(kwargs["cu_seq_lens_k"], kwargs["max_length_k"])
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        run = _by_sample if self.kernel is None else self.kernel.run
        return run(q, k, v, queries, keys, scaling, sliding_window)[None], None


def _by_sample(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: Bounds,
    keys: Bounds,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """The same as a kernel: [tokens, heads, head_dim], a sample's last query at its last key."""
    parts = zip(pairwise(queries.ends.tolist()), pairwise(keys.ends.tolist()), strict=True)
    out = torch.empty_like(q)
    for (at, end), (first, last) in parts:
        place = torch.arange(last - first - (end - at), last - first)[:, None]
        back = place - torch.arange(last - first)
        out[at:end] = scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in (q[at:end], k[first:last], v[first:last])),
            attn_mask=(back >= 0) & (back < (window or last)),
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )[0].transpose(0, 1)
    return out
