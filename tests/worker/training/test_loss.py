"""The loss from trained tokens alone: the model's own loss and gradients, without its logits."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import trl.kernels.chunked_logprob as chunked  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    Olmo3Config,
    Qwen3Config,
)

from jobspec.estimates import memory  # noqa: E402
from tests.support.models import WIDTHS  # noqa: E402
from worker.data.dataset_cache import IGNORED  # noqa: E402
from worker.packing.collate import find_targets, pad, to_device  # noqa: E402
from worker.training import loss as scoring  # noqa: E402

VOCABULARY = 203
SHAPE: dict[str, Any] = WIDTHS | {
    "vocab_size": VOCABULARY,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
}
FAMILIES = [
    Qwen3Config(**SHAPE, tie_word_embeddings=True),
    Olmo3Config(**SHAPE),
    LlamaConfig(**SHAPE),
    GemmaConfig(**SHAPE),
    Gemma2Config(**SHAPE, final_logit_softcapping=3.0),
    CohereConfig(**SHAPE, logit_scale=0.3),  # these two through TRL's own head
    GraniteConfig(**SHAPE, logits_scaling=3.0),
]


def lines(*, trained: bool = True) -> dict[str, Any]:
    """Two rows of 40 and 61 tokens; their last 11 and 23 are trained, or none is."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(2, VOCABULARY, (length,), generator=generator) for length in (40, 61)]
    labels = [torch.full_like(row, IGNORED) for row in ids]
    if trained:
        for row, label, count in zip(ids, labels, (11, 23), strict=True):
            label[-count:] = row[-count:]
    line = pad(ids, labels, 0)
    return line | find_targets(line)


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model


class Widest(TorchDispatchMode):
    """The numbers in the largest tensor made that is as wide as the vocabulary or as a tile."""

    def __init__(self, widths: set[int]) -> None:
        super().__init__()
        self.widths, self.numbers = widths, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and 32 not in tensor.shape:  # no weights
                wide = tensor.dim() > 1 and tensor.shape[-1] in self.widths
                self.numbers = max(self.numbers, tensor.numel() if wide else 0)
        return made


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_the_loss_and_its_gradients_are_those_of_the_models_own_logits(config: Any) -> None:
    model, inputs = model_of(config), lines()
    logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    shifted = inputs["labels"][:, 1:].reshape(-1)
    own = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, VOCABULARY), shifted, ignore_index=IGNORED, reduction="sum"
    )
    own.backward()
    expected = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    score = scoring.of(model)
    assert scoring.is_plain(config) == (config.model_type not in ("cohere", "granite"))
    loss = score(model, inputs)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, own, rtol=1e-6, atol=0.0)
    loss.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-5, atol=1e-5)
    text = model(inputs["input_ids"]).logits
    assert text.shape == (2, 61, VOCABULARY), "generation gets logits as before"


def test_logits_come_in_tiles_of_trained_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CPU_TILE", 64)
    model, inputs = model_of(Qwen3Config(**SHAPE)), lines()
    score = scoring.of(model)
    last = VOCABULARY % 64
    with Widest({VOCABULARY, 64, last}) as seen:
        score(model, inputs).backward()
    assert seen.numbers == (11 + 23) * 64
    monkeypatch.setattr(chunked, "TOKEN_CHUNK_SIZE", 8)
    with Widest({VOCABULARY, 64, last}) as seen:
        score(model, inputs).backward()
    assert seen.numbers == 8 * 64


def test_memory_is_predicted_for_these_tiles() -> None:
    assert (memory._TILE, memory._CPU_TILE) == (scoring.TILE, scoring.CPU_TILE)


def test_a_filler_without_trained_tokens_has_no_loss_and_a_gradient_of_nothing() -> None:
    model, inputs = model_of(Qwen3Config(**SHAPE)), lines(trained=False)
    loss = scoring.of(model)(model, inputs)
    loss.backward()
    assert loss.item() == 0.0
    assert all((weight.grad == 0).all() for weight in model.parameters()), "all ranks' hooks run"


def test_a_micro_batch_is_copied_to_its_device_without_waiting() -> None:
    class Copies(TorchDispatchMode):
        unattended: list[bool]

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is torch.ops.aten._to_copy.default:
                self.unattended.append(kwargs.get("non_blocking", False))
            return func(*args, **kwargs)

    inputs = lines()
    with Copies() as copies:
        copies.unattended = []
        there = to_device(inputs, torch.device("meta"))
    assert copies.unattended == [True] * len(inputs)
    assert {value.device.type for value in there.values()} == {"meta"}
