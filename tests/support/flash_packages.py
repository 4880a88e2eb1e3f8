"""FlashAttention's packages with their public functions, computing in plain torch on a CPU.

The signatures are those of flash-attn 2.8 (`flash_attn/flash_attn_interface.py`), flash-attn-3 3.0
(`hopper/flash_attn_interface.py`) and flash-attn-4 4.0.0b36 (`flash_attn/cute/interface.py`). What
is computed follows their documentation, score by score, and by nothing of ours.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

BUGS: set[str] = set()  # what the packages do wrong now: see `rows`

_TWO = """
from tests.support.flash_packages import rows
def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
    dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    alibi_slopes=None, deterministic=False, return_attn_probs=False, block_table=None):
    assert dropout_p == softcap == 0.0 and alibi_slopes is block_table is None
    return rows(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale,
                causal, window_size, -1)
"""
_THREE = """
from tests.support.flash_packages import rows
def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
    seqused_q=None, seqused_k=None, softmax_scale=None, causal=False, qv=None, q_descale=None,
    k_descale=None, v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0,
    num_splits=1, pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False):
    assert seqused_q is seqused_k is qv is None and attention_chunk == 0 and softcap == 0.0
    return rows(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale,
                causal, window_size, -1)
"""
_FOUR = """
from tests.support.flash_packages import rows
def flash_attn_varlen_func(q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None,
    max_seqlen_q=None, max_seqlen_k=None, min_seqlen_k=None, seqused_q=None, seqused_k=None,
    gather_kv_indices=None, page_table=None, softmax_scale=None, causal=False,
    window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None,
    deterministic=False, score_mod=None, score_mod_bwd=None, mask_mod=None,
    block_sparse_tensors=None, aux_tensors=None, aux_scalars=None, return_lse=False,
    scheduler_metadata=None, seqlen_k_per_split=None, disable_scheduler_metadata=False,
    gather_bwd_recompute_p=False, gather_bwd_token_chunk=None):
    assert qv is seqused_q is seqused_k is learnable_sink is None and softcap == 0.0
    out = rows(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale,
               causal, window_size, None)
    return out, None
"""
_PACKAGES = {
    "flash_attention_2": ("flash_attn/__init__.py", "flash_attn-2.8.3", _TWO),
    "flash_attention_3": ("flash_attn_interface.py", "flash_attn_3-3.0.0", _THREE),
    "flash_attention_4": ("flash_attn/cute/__init__.py", "flash_attn_4-4.0.0b36", _FOUR),
}


def install(place: Path, name: str) -> None:
    """Put a package into a directory that Python looks in."""
    module, distribution, source = _PACKAGES[name]
    (place / module).parent.mkdir(parents=True, exist_ok=True)
    (place / module).write_text(source)
    told, version = distribution.rsplit("-", 1)
    info = place / f"{distribution}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told}\nVersion: {version}\n")


def rows(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds_q: torch.Tensor,
    bounds_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    scale: float | None,
    causal: bool,
    window: tuple[int | None, int | None],
    infinite: int | None,
) -> torch.Tensor:
    """[tokens, heads, head_dim] from such, refused as the kernels refuse them; wrong by `BUGS`."""
    assert bounds_q.dtype == bounds_k.dtype == torch.int32
    ends, ends_k = bounds_q.tolist(), bounds_k.tolist()
    assert ends[0] == ends_k[0] == 0 and ends[-1] == len(q) and ends_k[-1] == len(k) == len(v)
    assert longest_q == max(end - at for at, end in pairwise(ends))
    assert longest_k == max(end - at for at, end in pairwise(ends_k))
    assert q.shape[1] % k.shape[1] == 0 and k.shape == v.shape
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    if "raises" in BUGS:
        raise RuntimeError("CUDA error: no kernel image is available\nfor this device")
    if "leaks" in BUGS:
        ends, ends_k = [0, len(q)], [0, len(k)]
    left, right = (None if side == infinite else side for side in window)
    right = 0 if causal else right
    if "window" in BUGS and left is not None:
        left += 1
    if "scale" in BUGS:
        scale = None
    groups = q.shape[1] // k.shape[1]
    # Query head h reads keys of head h // groups.
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    parts = [
        _row(q[at:end], k[at_k:end_k], v[at_k:end_k], scale, left, right)
        for (at, end), (at_k, end_k) in zip(pairwise(ends), pairwise(ends_k), strict=True)
    ]
    return torch.cat(parts)


def _row(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float | None,
    *sides: int | None,
) -> torch.Tensor:
    """Query i attends to keys i - left to i + right, both included; None is as far as there are.

    The last query is aligned with the last key.
    """
    left, right = sides
    exact = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("qhd,khd->hqk", q.to(exact), k.to(exact))
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    ahead = torch.arange(len(k)) - torch.arange(len(k) - len(q), len(k))[:, None]
    if "aligned" in BUGS:  # the first query with the first key
        ahead = torch.arange(len(k)) - torch.arange(len(q))[:, None]
    unseen = torch.zeros_like(ahead, dtype=torch.bool)
    if left is not None:
        unseen |= ahead < -left
    if right is not None:
        unseen |= ahead > right
    weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
    values = v.detach() if "gradient" in BUGS else v
    return torch.einsum("hqk,khd->qhd", weights, values.to(exact)).to(q.dtype)


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    num_splits: int | None = None,
) -> torch.Tensor:
    """Torch's `torch.nn.attention.varlen.varlen_attn`."""
    assert cu_seq_k is not None and enable_gqa == (query.shape[1] != key.shape[1])
    return rows(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, False, window_size, -1)


def varlen_attn_2_11(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
    """The same function in torch 2.11: grouped heads need no argument."""
    return rows(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, False, window_size, -1)


def varlen_attn_2_10(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    return_aux: Any = None,
) -> torch.Tensor:
    """The same function in torch 2.10: neither a scale nor windows."""
    return rows(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, None, is_causal, (-1, -1), -1)
