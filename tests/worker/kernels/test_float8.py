"""Which layers multiply in float8, what is saved, and what is refused. Products are emulated."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("torchao")

from torchao.float8.float8_linear import Float8Linear  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from benchmarks.families import tiny_model  # noqa: E402
from jobspec.errors import JobspecError  # noqa: E402
from worker.kernels import float8  # noqa: E402
from worker.packing import row_check  # noqa: E402
from worker.packing.collate import find_targets  # noqa: E402
from worker.packing.row_layout import RowLayout  # noqa: E402
from worker.training import loss  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "EMULATED", True)


def checked(family: str = "olmo3") -> tuple[Any, RowLayout]:
    """A model as it is before its layers are replaced, and the layout of its rows."""
    model = tiny_model(family, torch.bfloat16)
    found = row_check.check(model, "auto", device=CPU, agree=bool)
    return model, dataclasses.replace(found.layout, multiple=float8.MULTIPLE)


def convert(model: Any, layout: RowLayout, agree: Any = bool) -> str:
    return float8.convert(model, row_check.sample_line(model, layout, CPU), agree=agree)


def replaced(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, Float8Linear)}


def refusal(model: Any, layout: RowLayout, agree: Any = bool) -> str:
    with pytest.raises(JobspecError) as caught:
        convert(model, layout, agree)
    assert caught.value.place == "$.train.precision" and caught.value.hint
    return caught.value.message


def losses(model: Any, layout: RowLayout) -> list[float]:
    """Those of a few steps, each on other rows."""
    score = loss.of(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(0)
    found = []
    for step in range(3):
        lengths = (5 + 3 * step, 9, 21 - 2 * step)
        rows = [torch.randint(2, 61, (length,), generator=draw) for length in lengths]
        line = layout.collate(rows, [row.clone() for row in rows], 0)
        assert line["input_ids"].numel() % layout.multiple == 0
        summed = score(model, line | find_targets(line)) / sum(lengths)
        optimizer.zero_grad()
        summed.backward()
        optimizer.step()
        found.append(summed.item())
    return found


@pytest.mark.parametrize(("family", "count"), [("olmo3", 14), ("gemma3_text", 14), ("bamba", 8)])
def test_linear_layers_of_decoder_layers_are_replaced_and_weights_stay(
    family: str, count: int, tmp_path: Path
) -> None:
    model, layout = checked(family)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    weights = list(model.parameters())
    assert convert(model, layout).startswith(f"{count} linear layers by torchao")
    assert len(replaced(model)) == count
    assert all(".layers." in name for name in replaced(model))
    assert [id(each) for each in model.parameters()] == [id(each) for each in weights]
    assert all(each.grad is None for each in weights)
    assert not model.training
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert replaced(loaded) == set()
    after = loaded.state_dict()
    assert before.keys() == after.keys() == model.state_dict().keys()
    assert all(after[name].dtype == each.dtype for name, each in before.items())
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_sizes_that_are_no_multiple_of_16_stay_in_bfloat16() -> None:
    model, layout = checked()
    for layer in model.base_model.layers:
        mlp = layer.mlp
        mlp.gate_proj, mlp.up_proj = (
            torch.nn.Linear(32, 40, bias=False, dtype=torch.bfloat16) for _ in range(2)
        )
        mlp.down_proj = torch.nn.Linear(40, 32, bias=False, dtype=torch.bfloat16)
    convert(model, layout)
    assert len(replaced(model)) == 8
    assert all(".self_attn." in name for name in replaced(model))


def test_a_layer_that_gets_some_of_the_tokens_stays_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, layout = checked()
    mlp = model.base_model.layers[0].mlp
    whole = mlp.forward
    mlp.forward = lambda hidden: torch.cat([whole(part) for part in hidden.split(20, dim=1)], dim=1)
    convert(model, layout)
    assert len(replaced(model)) == 11
    assert not any("layers.0.mlp" in name for name in replaced(model))


def test_padded_and_recomputed_steps_have_the_same_losses() -> None:
    model, layout = checked()
    plain = copy.deepcopy(model)
    convert(model, layout)
    recomputed = copy.deepcopy(model)
    recomputed.gradient_checkpointing_enable({"use_reentrant": False})
    actual = losses(model, layout)
    assert actual == losses(recomputed, layout)
    expected = losses(plain, layout)
    assert actual != expected
    assert actual == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("family", ["qwen3", "bamba"])
def test_padding_to_a_multiple_changes_no_loss(family: str) -> None:
    model = tiny_model(family)
    found = row_check.check(model, "auto", device=CPU, agree=bool).layout
    other = copy.deepcopy(model)
    padded = dataclasses.replace(found, multiple=16)
    assert losses(model, found) == pytest.approx(losses(other, padded), rel=1e-6)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_a_mixture_of_experts_is_refused(family: str) -> None:
    model, layout = checked(family)
    assert "mixture of experts" in refusal(model, layout)
    assert replaced(model) == set()


def test_a_model_without_linear_decoder_layers_is_refused() -> None:
    assert "`gpt2` has no decoder layers with suited linear" in refusal(*checked("gpt2"))


@pytest.mark.parametrize("factor", [0.5, float("nan")])
def test_wrong_products_are_refused(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Float8Linear.forward
    monkeypatch.setattr(Float8Linear, "forward", lambda self, rows: factor * right(self, rows))
    assert "values of a linear layer of 32 × 32 weights are off by" in refusal(*checked())


def test_wrong_gradients_of_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, rows: Any) -> Any:
        return torch.nn.functional.linear(rows, 0.5 * self.weight + 0.5 * self.weight.detach())

    monkeypatch.setattr(Float8Linear, "forward", forward)
    assert "weight gradients of a linear layer" in refusal(*checked())


def test_a_model_that_becomes_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "_product_trouble", lambda layer: None)
    right = Float8Linear.forward
    monkeypatch.setattr(Float8Linear, "forward", lambda self, rows: -right(self, rows))
    assert "logits differ from bfloat16's by" in refusal(*checked())


def test_all_ranks_refuse_if_one_does() -> None:
    assert "another rank" in refusal(*checked(), agree=lambda holds: False)


@pytest.mark.parametrize(("capability", "refused"), [((8, 9), True), ((9, 0), False)])
def test_a_gpu_older_than_hopper_is_refused(
    capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float8, "EMULATED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40S")
    if not refused:
        float8._refuse_device(torch.device("cuda"))
        return
    with pytest.raises(JobspecError, match="`NVIDIA L40S` is older than NVIDIA's Hopper"):
        float8._refuse_device(torch.device("cuda"))


def test_a_cpu_is_refused_and_nothing_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "EMULATED", False)
    model, layout = checked()
    assert "needs a GPU of NVIDIA's Hopper generation" in refusal(model, layout)
    assert replaced(model) == set()
