from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    Olmo3Config,
    Qwen3Config,
)

from jobspec.errors import JobspecError  # noqa: E402
from tests.support.models import WIDTHS  # noqa: E402
from worker.kernels import liger, varlen_attention  # noqa: E402
from worker.packing.collate import pack  # noqa: E402

SHAPE: dict[str, Any] = WIDTHS | {
    "vocab_size": 60,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
}


FAMILIES = [
    Olmo3Config(**SHAPE, sliding_window=5),
    Qwen3Config(**SHAPE),
    LlamaConfig(**SHAPE),
    GemmaConfig(**SHAPE),
    Gemma3TextConfig(**SHAPE, sliding_window=5),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_rows_laid_end_to_end_are_computed_as_if_alone(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=varlen_attention.register()
    )
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    # A configuration of its own: a shared one would switch both models to the later attention.
    apart = type(config).from_dict(config.to_dict())
    alone = AutoModelForCausalLM.from_config(apart, attn_implementation="eager")
    assert model.config._attn_implementation == varlen_attention.NAME
    alone.load_state_dict(model.state_dict())
    rows = [torch.randint(2, 60, (length,)) for length in (3, 17, 1, 9)]
    packed = pack(rows, [row.clone() for row in rows])
    labels = packed.pop("labels")
    together = model(**packed, use_cache=False).logits[0]
    for row, part in zip(rows, together.split([len(row) for row in rows]), strict=True):
        expected = alone(input_ids=row[None], use_cache=False).logits[0]
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)
    # No row predicts the next row's first token.
    starts = packed["cu_seq_lens_q"][:-1].long()
    assert (labels[0, starts] == -100).all()


def test_gradients_of_a_row_come_from_that_row_alone():
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPE)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=varlen_attention.register()
    )
    embedded = torch.randn(1, 10, 32, requires_grad=True)
    bounds = torch.tensor([0, 4, 10], dtype=torch.int32)
    positions = torch.cat([torch.arange(4), torch.arange(6)])[None]
    out = model(
        inputs_embeds=embedded,
        position_ids=positions,
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=6,
        max_length_k=6,
        use_cache=False,
    )
    out.logits[0, 4:].sum().backward()
    assert embedded.grad is not None
    assert (embedded.grad[0, :4] == 0).all()
    assert (embedded.grad[0, 4:] != 0).any()


def test_a_family_whose_attention_does_more_is_refused():
    capped = AutoModelForCausalLM.from_config(
        Gemma2Config(**SHAPE), attn_implementation=varlen_attention.register()
    )
    line = pack([torch.tensor([2, 3])], [torch.tensor([2, 3])])
    with pytest.raises(ValueError, match="does not support softcap"):
        capped(**line, use_cache=False)


def test_liger_serves_only_where_it_can():
    model = AutoModelForCausalLM.from_config(GemmaConfig(**SHAPE))
    assert liger.apply(model, "auto", on_gpu=False) is None
    assert liger.apply(model, False, on_gpu=True) is None
    with pytest.raises(JobspecError, match="need a GPU"):
        liger.apply(model, True, on_gpu=False)


def test_a_mask_or_missing_bounds_are_refused():
    config = Qwen3Config(**SHAPE)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=varlen_attention.register()
    )
    with pytest.raises(ValueError, match="and no mask"):
        model(input_ids=torch.tensor([[2, 3]]), use_cache=False)
