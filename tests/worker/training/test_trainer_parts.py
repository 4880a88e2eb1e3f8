"""Learning rates from the first step on, and saving before training instead of after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler

from jobspec.errors import ModelError
from jobspec.spec.schema import TrainSpec
from worker.training import loading
from worker.training.trainer import RowTrainer, warm_up_from_first_step
from worker.training.trainer_arguments import warmup_steps

SCHEDULES = ("constant_with_warmup", "constant", "linear", "cosine", "polynomial", "inverse_sqrt")


def rates(name: str, warmup: int, steps: int, *, shifted: bool) -> list[float]:
    """The learning rate of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, warmup, steps)
    if shifted:
        warm_up_from_first_step(scheduler, warmup)
    found: list[float] = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_first_step_has_a_rate_and_later_steps_keep_theirs(name: str) -> None:
    before, now = (rates(name, 4, 12, shifted=shifted) for shifted in (False, True))
    assert now[0] > 0
    assert now[4:] == before[4:]
    if name != "constant":
        assert now[:4] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_of_one_step_trains(name: str) -> None:
    warmup = warmup_steps(TrainSpec(warmup_ratio=0.03), 1)
    assert rates(name, warmup, 1, shifted=True) == [1.0]


def tiny(family: str = "llama", **changes: Any) -> Any:
    config = AutoConfig.for_model(
        family,
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        **changes,
    )
    return AutoModelForCausalLM.from_config(config)


class Tokenizer:
    def save_pretrained(self, path: str) -> None:
        Path(path).mkdir(parents=True)


class Saver(RowTrainer):
    """A trainer of nothing: only what `try_saving` reads."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def _tokenizer(self) -> Any:
        return Tokenizer()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_what_can_be_saved_is_saved_without_weights_and_removed(
    tmp_path: Path, *, tied: bool, adapted: bool
) -> None:
    model = tiny(tie_word_embeddings=tied)
    if adapted:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    Saver(model).try_saving(tmp_path / "tried")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved_is_an_error_that_says_why(tmp_path: Path) -> None:
    model = tiny()
    model.generation_config.temperature = 0.9  # without do_sample: loaded, but refused on saving
    with pytest.raises(ModelError, match="could not be saved") as caught:
        Saver(model).try_saving(tmp_path / "tried")
    assert "temperature" in caught.value.message + (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.9, "top_p": 0.6}, {"top_k": 7}, {"min_p": 0.1}]
)
def test_sampling_settings_without_do_sample_are_kept_and_can_be_saved(
    tmp_path: Path, settings: dict[str, float]
) -> None:
    model = tiny()
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    loading._allow_sampling(model.generation_config)
    Saver(model).try_saving(tmp_path / "tried")
    assert model.generation_config.do_sample is True
    assert all(getattr(model.generation_config, k) == v for k, v in settings.items())
