"""Which layout of rows a model gets, and that the check leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, Gemma2Config, Qwen3Config  # noqa: E402

from benchmarks.families import tiny_model  # noqa: E402
from jobspec.errors import ModelError, SpecError  # noqa: E402
from tests.support.models import WIDTHS  # noqa: E402
from worker.kernels import varlen_attention  # noqa: E402
from worker.packing import model_parts, row_check  # noqa: E402
from worker.packing.row_check import ModelCheck  # noqa: E402
from worker.packing.row_layout import RowLayout  # noqa: E402

LEAK = "rows affect each other: one row's loss has a gradient at another's tokens"
SHAPE: dict[str, Any] = WIDTHS | {"vocab_size": 60, "intermediate_size": 64, "num_hidden_layers": 2}


def check(model: Any, asked: str = "auto", **options: Any) -> ModelCheck:
    defaults: dict[str, Any] = {"device": torch.device("cpu"), "agree": bool}
    return row_check.check(model, asked, **defaults | options)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", torch.float32),
        ("llama", torch.bfloat16),
        ("olmo3", torch.float32),
        ("gemma3_text", torch.float32),
        ("mixtral", torch.bfloat16),
        ("gemma4_text", torch.bfloat16),
    ],
    ids=str,
)
def test_independent_rows_are_packed(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family, dtype)
    assert check(model) == ModelCheck(RowLayout("packed", varlen_attention.NAME))
    assert model.config.get_text_config()._attn_implementation == varlen_attention.NAME


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("qwen3_5_text", torch.float32),
        ("lfm2", torch.float32),
        ("lfm2", torch.bfloat16),
        ("mamba2", torch.float32),
        ("jamba", torch.float32),
    ],
    ids=str,
)
def test_rows_are_padded_where_state_is_carried_along_a_line(
    family: str, dtype: torch.dtype
) -> None:
    """In bfloat16 too, where the convolution of lfm2 changes logits by less than rounding does."""
    layout = check(tiny_model(family, dtype)).layout
    assert (layout.rows, layout.reason) == ("padded", LEAK)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bloom", "the model's attention can't be `segments`"),
        ("xglm", "the model's attention can't be `segments`"),
        ("falcon", "the model's attention can't be `segments`"),
        ("gptj", "the model's attention can't be `segments`"),
        ("gpt_neo", "the model's attention can't be `segments`"),
        ("stablelm", "needs packed rows with `cu_seq_lens_q` and no mask"),
        ("gpt2", "`segments` attention does not support dropout"),
        ("gemma2", "`segments` attention does not support softcap"),
        ("gpt_oss", "rows differ from the same rows alone"),  # it adds sinks
        ("llama4_text", "rows differ from the same rows alone"),  # its attention is chunked
    ],
)
def test_rows_are_padded_where_packing_fails(family: str, reason: str) -> None:
    model = tiny_model(family)
    layout = check(model).layout
    assert layout.padded
    assert reason in (layout.reason or "")
    assert model.config.get_text_config()._attn_implementation == layout.attention
    assert varlen_attention.ran() is None


def test_a_families_own_mechanism_is_used_where_it_separates_rows(monkeypatch) -> None:
    """Stand-in for causal-conv1d, whose kernel resets its state where `seq_idx` changes."""
    from transformers.models.lfm2 import modeling_lfm2

    def convolve(x: Any, weight: Any, bias: Any, seq_idx: Any = None) -> Any:
        pieces = [x]
        if seq_idx is not None:
            pieces = x.split(torch.bincount(seq_idx[0]).tolist(), dim=-1)
        width = weight.shape[-1]
        return torch.cat(
            [
                torch.nn.functional.conv1d(
                    torch.nn.functional.pad(piece, (width - 1, 0)),
                    weight[:, None],
                    bias,
                    groups=len(weight),
                )
                for piece in pieces
            ],
            dim=-1,
        )

    monkeypatch.setattr(modeling_lfm2, "causal_conv1d_fn", convolve)
    layout = check(tiny_model("lfm2")).layout
    assert (layout.rows, layout.seq_idx, layout.reason) == ("packed", True, LEAK)
    rows = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
    line = layout.collate(rows, [row.clone() for row in rows], 0)
    assert line["seq_idx"].tolist() == [[0, 0, 0, 1, 1]]


def test_no_layout_is_an_error() -> None:
    """Gemma 2 caps the scores of its attention; sdpa ignores the cap."""
    model = AutoModelForCausalLM.from_config(Gemma2Config(**SHAPE, initializer_range=0.2))
    with pytest.raises(ModelError, match="several rows can't be trained together on `gemma2`") as e:
        check(model, "sdpa")
    assert e.value.hint == 'set model.attn_implementation to "auto"'
    assert model.model.layers[0].self_attn.attn_logit_softcapping == 50.0
    assert check(model, "eager").layout == RowLayout("padded", "eager")


def test_ranks_decide_alike() -> None:
    """Another rank could not use what this one can."""
    others = iter([True, False, False, True])  # first: whether the logits are finite
    layout = check(tiny_model("llama"), agree=lambda holds: next(others) and holds).layout
    assert (layout.rows, layout.reason) == ("padded", "another rank's result differs")


def test_the_check_leaves_no_trace() -> None:
    model = tiny_model("gemma3_text").train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    random = torch.random.get_rng_state()
    check(model)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model.training and all(module.training for module in model.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not torch.nn.modules.module._global_forward_pre_hooks
    windows = {
        module.sliding_window for module in model.modules() if hasattr(module, "sliding_window")
    }
    assert 5 not in windows


def test_sharded_rows_need_the_attention_for_packed_rows() -> None:
    capped = AutoModelForCausalLM.from_config(Gemma2Config(**SHAPE))
    check(capped)
    with pytest.raises(SpecError, match="`gemma2` needs its own attention"):
        varlen_attention.enable_sequence_parallel(capped.config, 2)
    plain = AutoModelForCausalLM.from_config(Qwen3Config(**SHAPE))
    assert not check(plain).layout.padded


@pytest.mark.parametrize(
    ("family", "unused"),
    [
        ("gemma3", ("model.vision_tower", "model.multi_modal_projector")),
        ("mllama", ("model.layers.1",)),  # attends to an image
        ("mixtral", ()),
        ("qwen3_moe", ()),
        ("jamba", ()),
        ("whisper", ()),
    ],
)
def test_parts_that_text_does_not_use_are_not_trained(family: str, unused: tuple[str]) -> None:
    model = tiny_model(family)
    found = check(model).unused
    assert found == unused
    model_parts.freeze(model, found)
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    inside = [weight for part in unused for weight in model.get_submodule(part).parameters()]
    assert {id(weight) for weight in frozen} == {id(weight) for weight in inside}
    counts = model_parts.count_weights(model)
    assert counts.total - counts.trained == sum(weight.numel() for weight in frozen)


def test_an_expert_that_few_tokens_do_not_reach_is_trained() -> None:
    """Also where every expert is a module of its own, of which most are not called."""

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(8))

        def forward(self, x: Any) -> Any:
            return self.experts[3](x)

    model = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([Layer()]), "tower": torch.nn.Linear(4, 4)}
    )
    with model_parts.called_modules() as called:
        model["layers"][0](torch.zeros(4))
    assert model_parts.unused_parts(model, called, set()) == ("tower",)
    shared = {model["tower"].weight}
    assert model_parts.unused_parts(model, called, shared) == ()
