"""Compiled layers compute the same, and a model that can't be compiled trains as it is."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.modeling_layers import GradientCheckpointingLayer  # noqa: E402

from benchmarks.families import tiny_model  # noqa: E402
from worker.kernels import compiled_layers  # noqa: E402
from worker.packing import row_check  # noqa: E402
from worker.packing.collate import find_targets, pack  # noqa: E402
from worker.training import loss  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    suppressed, limit = (
        torch._dynamo.config.suppress_errors,
        torch._dynamo.config.recompile_limit,
    )
    torch._dynamo.reset()
    yield
    torch._dynamo.config.suppress_errors = suppressed
    torch._dynamo.config.recompile_limit = limit


def checked(family: str = "olmo3") -> tuple[Any, dict[str, Any]]:
    """A model as it is before it is compiled, and a line of rows."""
    model = tiny_model(family)
    found = row_check.check(model, "auto", device=CPU, agree=bool)
    return model, row_check.sample_line(model, found.layout, CPU)


def compiled(model: Any) -> list[bool]:
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    assert layers
    return [layer._compiled_call_impl is not None for layer in layers]


def losses(model: Any, steps: Iterable[int] = range(5), optimizer: Any = None) -> list[float]:
    """Those of a few steps, each on other rows."""
    score = loss.of(model)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        lengths = (5 + 3 * step, 9, 21 - 2 * step)[step % 3 :]
        rows = [torch.randint(2, 61, (length,), generator=draw) for length in lengths]
        line = pack(rows, [row.clone() for row in rows])
        summed = score(model, line | find_targets(line)) / sum(lengths)
        optimizer.zero_grad()
        summed.backward()
        optimizer.step()
        found.append(summed.item())
    return found


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_layers_train_the_same_losses_with_one_code_for_all_rows() -> None:
    model, line = checked()
    assert compiled_layers.compile_layers(model, line, agree=bool) is None
    assert all(compiled(model))
    assert all(each.grad is None for each in model.parameters())
    model.gradient_checkpointing_enable({"use_reentrant": False})
    counted = torch._dynamo.utils.counters["stats"]
    graphs = counted["unique_graphs"]
    assert graphs > 0
    assert losses(model.train()) == pytest.approx(losses(checked()[0].train()), rel=1e-6)
    assert counted["unique_graphs"] == graphs  # other lengths, and another number of rows


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_again_they_continue_bit_for_bit() -> None:
    """A resumed run compiles again, before other rows than the run that was not stopped."""

    def compiled_model() -> tuple[Any, Any]:
        torch._dynamo.reset()
        model, line = checked()
        assert compiled_layers.compile_layers(model, line, agree=bool) is None
        return model.train(), torch.optim.AdamW(model.parameters(), lr=1e-3)

    calm, optimizer = compiled_model()
    losses(calm, range(3), optimizer)
    saved = copy.deepcopy((calm.state_dict(), optimizer.state_dict()))
    expected = losses(calm, range(3, 6), optimizer)
    resumed, optimizer = compiled_model()
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert losses(resumed, range(3, 6), optimizer) == expected


def test_without_a_compiler_the_model_stays_as_it_is() -> None:
    model, line = checked()
    # With monkeypatch, the second of the two would stay changed for the tests that follow.
    without = {"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}
    with torch._inductor.config.patch(without):
        reason = compiled_layers.compile_layers(model, line, agree=bool)
    assert reason is not None and "Compiler" in reason and "\n" not in reason
    assert not any(compiled(model))
    assert losses(model) == losses(checked()[0])


def compile_to(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_layer(layer: Any, **options: Any) -> None:
        layer._compiled_call_impl = lambda *args, **kwargs: result(layer.forward(*args, **kwargs))

    monkeypatch.setattr(torch.nn.Module, "compile", compile_layer)


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_layers_that_compute_something_else_are_not_used(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_to(lambda hidden: factor * hidden, monkeypatch)
    model, line = checked()
    reason = compiled_layers.compile_layers(model, line, agree=bool)
    assert reason is not None and reason.startswith("compiled layers compute other logits, by")
    assert not any(compiled(model))


def test_all_ranks_do_as_the_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_to(lambda hidden: hidden, monkeypatch)
    model, line = checked()
    asked: list[bool] = []

    def disagree(own: bool) -> bool:
        asked.append(own)
        return False

    reason = compiled_layers.compile_layers(model, line, agree=disagree)
    assert asked == [True] and reason == "compiling failed on another rank"
    assert not any(compiled(model))


def test_a_model_without_marked_layers_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_layers, "GradientCheckpointingLayer", ())
    model, line = checked()
    reason = compiled_layers.compile_layers(model, line, agree=bool)
    assert reason == "the layers of `olmo3` are not marked as such"
