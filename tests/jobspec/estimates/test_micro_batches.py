"""What "auto" chooses: the largest micro-batches and the fewest recomputed layers that fit."""

from __future__ import annotations

from typing import Any

import pytest

from jobspec.estimates import memory, micro_batches
from jobspec.estimates.memory import Setting
from jobspec.models import decoder_shape, devices
from jobspec.models.decoder_shape import DecoderShape
from jobspec.records.manifest import MicroBatchPlan
from jobspec.spec.schema import LoraSpec, TrainSpec

AUTO: dict[str, Any] = {"packing": "auto", "gradient_checkpointing": "auto"}


@pytest.fixture
def qwen() -> DecoderShape:
    found = decoder_shape.known("Qwen/Qwen3-8B")
    assert found is not None
    return found


def setting(gpus: int = 4, *, on_gpu: bool = True, **train: Any) -> Setting:
    made = TrainSpec(**AUTO | train)
    return Setting(train=made, dtype="bfloat16", devices=gpus, tokens=1, on_gpu=on_gpu)


def choose(
    shape: DecoderShape | None, usable_gib: float, longest: int = 8000, **changes: Any
) -> MicroBatchPlan:
    least = changes.pop("least_memory", False)
    return micro_batches.choose(
        shape,
        setting(**changes),
        longest=longest,
        layers=36,
        usable_gib=usable_gib,
        least_memory=least,
    )


def test_the_less_memory_there_is_the_more_layers_are_recomputed(qwen: DecoderShape) -> None:
    plans = [choose(qwen, gib) for gib in (1000.0, 120.0, 90.0, 70.0, 1.0)]
    assert plans[0] == MicroBatchPlan(tokens=8192, recomputed_layers=0, layers=36)
    counts = [plan.recomputed_layers for plan in plans]
    assert counts == sorted(counts)
    assert 0 < counts[2] < 36
    assert plans[-1] == MicroBatchPlan(
        tokens=8000, recomputed_layers=36, layers=36, least_memory=True
    )


def test_what_is_chosen_fits_and_one_layer_less_would_not(qwen: DecoderShape) -> None:
    plan = choose(qwen, 90.0)
    made = setting()
    most = micro_batches.SPENT_FRAC * 90.0
    assert micro_batches.predict(qwen, made, plan, 8000).total <= most
    fewer = MicroBatchPlan(tokens=8000, recomputed_layers=plan.recomputed_layers - 1, layers=36)
    assert micro_batches.predict(qwen, made, fewer, 8000).total > most


def test_short_rows_get_smaller_micro_batches_before_layers_are_recomputed(
    qwen: DecoderShape,
) -> None:
    least = micro_batches.predict(
        qwen, setting(), MicroBatchPlan(tokens=2048, recomputed_layers=0, layers=36), 900
    ).total
    plan = choose(qwen, (least + 0.1) / micro_batches.SPENT_FRAC, longest=900)
    assert (plan.tokens, plan.recomputed_layers) == (2048, 0)
    assert choose(qwen, 1000.0, longest=900).tokens == 8192, "more than max_length of some rows"


def test_a_row_that_is_longer_than_the_budget_sets_it(qwen: DecoderShape) -> None:
    assert choose(qwen, 1000.0, longest=30000).tokens == 30000


def test_what_the_spec_says_is_kept(qwen: DecoderShape) -> None:
    plan = choose(qwen, 1000.0, packing=False, gradient_checkpointing=True)
    assert plan == MicroBatchPlan(tokens=None, recomputed_layers=36, layers=36)
    plan = choose(qwen, 1000.0, packing=True, gradient_checkpointing=False, max_length=4096)
    assert plan.tokens == 8000 and plan.recomputed_layers == 0
    plan = choose(qwen, 1000.0, packing=True, max_length=16384)
    assert plan.tokens == 16384


def test_a_model_of_unknown_memory_and_a_run_that_ran_out_take_the_least(
    qwen: DecoderShape,
) -> None:
    least = MicroBatchPlan(tokens=900, recomputed_layers=36, layers=36, least_memory=True)
    assert choose(None, 1000.0, longest=900) == least
    assert choose(qwen, 1000.0, longest=900, least_memory=True) == least
    kept = choose(qwen, 1000.0, longest=900, least_memory=True, gradient_checkpointing=False)
    assert (kept.tokens, kept.recomputed_layers) == (900, 0)


def test_each_recomputed_layer_takes_less(qwen: DecoderShape) -> None:
    for lora in (None, LoraSpec()):
        sizes = [
            micro_batches.predict(
                qwen,
                setting(lora=lora),
                MicroBatchPlan(tokens=8192, recomputed_layers=count, layers=36),
                8192,
            ).backward
            for count in range(1, 37)
        ]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > 3 * sizes[-1]


def test_all_and_none_are_what_the_switch_means(qwen: DecoderShape) -> None:
    for switch, count in ((True, 36), (False, 0)):
        made = setting(gradient_checkpointing=switch)
        plan = MicroBatchPlan(tokens=1, recomputed_layers=count, layers=36)
        assert micro_batches.predict(qwen, made, plan, 1) == memory.predict(qwen, made)


def test_eight_cards_of_141_gb_recompute_nothing() -> None:
    olmo = decoder_shape.known("allenai/Olmo-3-7B-Think")
    assert olmo is not None
    usable = devices.device("h200").usable_gib
    made = setting(gpus=8)
    plan = micro_batches.choose(olmo, made, longest=8192, layers=32, usable_gib=usable)
    assert (plan.tokens, plan.recomputed_layers) == (8192, 0)
