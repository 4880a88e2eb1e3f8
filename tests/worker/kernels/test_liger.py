"""Liger's kernels reach every norm of a model, also those that Liger's own patch leaves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import families  # noqa: E402
from worker.kernels import liger  # noqa: E402


class FusedNorm(torch.nn.Module):
    """In place of Liger's norm, which needs Triton."""

    def forward(self, hidden: Any) -> str:
        return f"fused {self.offset} {self.casting_mode} {self.variance_epsilon} {self.in_place}"


def patch(norm: Any, offset: float, eps: float, casting_mode: str, in_place: bool) -> None:
    """What Liger 0.8.5 does to a norm."""
    norm.offset, norm.casting_mode, norm.in_place = offset, casting_mode, in_place
    norm.variance_epsilon = getattr(norm, "variance_epsilon", None) or eps
    norm.forward = FusedNorm.forward.__get__(norm)


LIGER = SimpleNamespace(LigerRMSNorm=FusedNorm, _patch_rms_norm_module=patch)


def apply_as_liger(model: Any, offset: float = 0.0, casting_mode: str = "llama") -> None:
    """Patch the norms that Liger knows by name: the last one, and those beside attention."""
    base = model.base_model
    known = ("input_layernorm", "post_attention_layernorm", "post_feedforward_layernorm")
    beside = [getattr(layer, name, None) for layer in base.layers for name in known]
    for norm in [base.norm, *beside]:
        if norm is not None:
            patch(norm, offset, 1e-6, casting_mode, True)


def is_fused(norm: Any) -> bool:
    return str(norm(torch.ones(1, 4, norm.weight.shape[-1]))).startswith("fused")


@pytest.mark.parametrize("family", ["olmo2", "olmo3", "qwen3", "gemma3_text"])
def test_query_and_key_norms_get_the_kernel_too(family: str) -> None:
    model = families.tiny_model(family)
    apply_as_liger(model, offset=1.0, casting_mode="gemma")
    attention = model.base_model.layers[1].self_attn
    assert not is_fused(attention.q_norm) and not is_fused(attention.k_norm)
    epsilon = getattr(attention.q_norm, "variance_epsilon", 1e-6)
    liger.patch_remaining_norms(model, LIGER)
    # The class's own settings, but never in place of a gradient that others may need.
    assert attention.q_norm(None) == attention.k_norm(None) == f"fused 1.0 gemma {epsilon} False"
    assert list(liger.remaining_norms(model, LIGER)) == []


def test_only_norms_of_a_class_that_liger_replaced_are_patched() -> None:
    model = families.tiny_model("olmo3")
    liger.patch_remaining_norms(model, LIGER)
    assert not is_fused(model.base_model.norm)
    other = torch.nn.RMSNorm(8)
    model.base_model.layers[0].self_attn.q_norm = other
    apply_as_liger(model)
    liger.patch_remaining_norms(model, LIGER)
    assert not is_fused(other)
    assert is_fused(model.base_model.layers[0].self_attn.k_norm)


def test_a_norm_without_weights_keeps_torchs_operations() -> None:
    model = families.tiny_model("olmo3")
    apply_as_liger(model)
    bare = model.base_model.layers[0].self_attn.q_norm
    bare.weight = None
    left = [name for name, *_ in liger.remaining_norms(model, LIGER)]
    assert "model.layers.0.self_attn.q_norm" not in left
    assert "model.layers.0.self_attn.k_norm" in left
