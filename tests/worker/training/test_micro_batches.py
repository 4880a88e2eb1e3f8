"""Recomputing only the first layers: the same gradients, and only these run forward twice."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("torch")

import torch
from transformers import Olmo3Config, Olmo3ForCausalLM

from worker.training import micro_batches


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_only_the_first_layers_run_forward_twice(count: int) -> None:
    torch.manual_seed(0)
    config = Olmo3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = Olmo3ForCausalLM(config).train()
    ids = torch.randint(3, 64, (1, 12))
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    calls: Counter[int] = Counter()
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: calls.update([number]))
    model.gradient_checkpointing_enable()
    micro_batches.recompute_first(model, count)

    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    assert [calls[number] for number in range(4)] == [2] * count + [1] * (4 - count)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)
