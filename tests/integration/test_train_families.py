"""Families that need more than packed rows, from the spec to the trained weights."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.numpy import load_file

from jobspec.queue.queue import Queue
from jobspec.records.manifest import EngineSummary
from jobspec.records.reports import TrainReport
from tests.support.queues import queue_at
from tests.support.ranks import Forge, Run, start
from tests.support.specs import tiny_spec, with_model

pytestmark = pytest.mark.deepspeed

ROWS = 24  # three steps
NEVER = 1000  # steps


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    return queue_at(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def models(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of two families, with the demo's tokenizer and template."""
    import transformers

    from benchmarks.families import tiny_model

    place = tmp_path_factory.mktemp("models")
    vocabulary = msgspec.json.decode((tiny / "model" / "config.json").read_bytes())["vocab_size"]
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family in ("gemma3", "lfm2"):
            shutil.copytree(tiny / "model", place / family)
            tiny_model(family, vocabulary=vocabulary).save_pretrained(place / family)
    transformers.logging.set_verbosity(level)
    return place


def trained(
    ranks: Forge, queue: Queue, tiny: Path, model: Path, name: str, world: int = 1, **settings
) -> Run:
    made = tiny_spec(tiny, name=name, num_train_epochs=1.0, **settings)
    assert made.data is not None
    data = msgspec.structs.replace(made.data, max_train_samples=ROWS, eval_split_ratio=0.0)
    spec = with_model(msgspec.structs.replace(made, data=data), model)
    run = start(ranks, queue, spec, save_every=NEVER)
    assert run.go(world=world) == [0] * world, run.attempt.log("train").read_text()
    return run


def weights_of(model: Path) -> dict[str, Any]:
    """Arrays by name. With ZeRO-3, Transformers saves the tower under the names of old releases."""
    arrays = load_file(model / "model.safetensors")
    return {name.replace(".vision_model.", "."): array for name, array in arrays.items()}


@pytest.mark.parametrize("stage", [2, 3], ids=lambda stage: f"zero-{stage}")
def test_a_vision_tower_stays_as_it_is(
    ranks: Forge, queue: Queue, tiny: Path, models: Path, stage: int
) -> None:
    """Text gives it no gradient, and weight decay would shrink it."""
    run = trained(
        ranks,
        queue,
        tiny,
        models / "gemma3",
        f"gemma3-{stage}",
        weight_decay=0.5,
        zero_stage=stage,
    )
    before = weights_of(models / "gemma3")
    after = weights_of(run.attempt.final_model)
    assert before.keys() <= after.keys()
    changed = {name for name in before if (before[name] != after[name]).any()}
    unused = {name for name in before if "vision_tower" in name or "projector" in name}
    assert changed
    assert not changed & unused
    report = msgspec.json.decode(run.attempt.done("train").read_bytes(), type=TrainReport)
    engine = report.engine
    assert engine.unused == ("model.vision_tower", "model.multi_modal_projector")
    assert engine.weights is not None and engine.trained_weights is not None
    assert engine.weights - engine.trained_weights == sum(before[name].size for name in unused)
    log = run.attempt.log("train").read_text()
    assert "train: rows are packed with `segments`, checked in " in log
    assert f"train: trains {engine.trained_weights:,} of {engine.weights:,} weights" in log
    summary = msgspec.convert(engine, EngineSummary, from_attributes=True)  # what `show` prints
    assert (summary.rows, summary.trained_weights) == ("packed", engine.trained_weights)


def test_packing_is_not_used_where_it_would_mix_rows(
    ranks: Forge, queue: Queue, tiny: Path, models: Path
) -> None:
    """The losses are those of a run that does not ask for it, and the log and record say why.

    Its micro-batches are cut by tokens, padding included.
    """
    options = {"per_device_train_batch_size": 2}
    asked = trained(
        ranks, queue, tiny, models / "lfm2", "lfm2-packed", world=2, packing="auto", **options
    )
    plain = trained(ranks, queue, tiny, models / "lfm2", "lfm2-plain", world=2, **options)
    assert len(asked.losses) == ROWS // 8
    assert asked.losses == pytest.approx(plain.losses, abs=1e-6)
    engine = asked.summary["engine"]
    assert (engine["rows"], engine["attention"]) == ("padded", None)
    assert engine["rows_reason"].startswith("rows affect each other")
    log = asked.attempt.log("train").read_text()
    assert "train: rows are padded with `sdpa`, checked in " in log
    longest = engine["micro_batch_tokens"]  # the memory of this family is not predicted
    assert log.count(f"micro-batches have up to {longest} tokens, padding included") == 1
    assert "micro-batches have up to 2 rows\n" in plain.attempt.log("train").read_text()
