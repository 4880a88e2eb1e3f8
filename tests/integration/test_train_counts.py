"""What a training step costs beside its work, counted in real ranks; other families' whole way.

Ranks count while they train (tests.support.counting_forks): no GPU is needed to see how often
one would be waited for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.spec.schema import JobSpec
from tests.support.queues import queue_at
from tests.support.ranks import Forge, forge, rank_env, start
from tests.support.specs import tiny_spec, with_model

pytestmark = pytest.mark.deepspeed

ROWS = 16  # two steps of two ranks' four micro-batches
MICROS = 4
MOST_GROUPS = 18  # of the optimizer on two ranks: sixteen, and two kinds of weights
MIB = 2**20


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    with forge(tmp_path_factory.mktemp("census"), "counting_forks.py") as made:
        yield made


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    return queue_at(tmp_path_factory.mktemp("counts"))


@pytest.fixture(scope="module")
def models(ranks: Forge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wide`, whose weights stand out in a process's memory, `llama3` and `gemma`."""
    place = tmp_path_factory.mktemp("models")
    request = {"phase": "make", "attempt": str(place), "log": str(place / "log"), "ranks": 1}
    request |= {"env": [rank_env(0, 1, 0)], "save_every": 1, "strikes": []}
    assert ranks.run(request) == [0], (place / "log").read_text()
    return place


def spec(tiny: Path, model: Path, name: str, **settings: Any) -> JobSpec:
    made = tiny_spec(tiny, name=name, num_train_epochs=1.0, **settings)
    assert made.data is not None
    data = msgspec.structs.replace(made.data, max_train_samples=ROWS, eval_split_ratio=0.0)
    return with_model(msgspec.structs.replace(made, data=data), model)


Counted = tuple[int, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=[2, 3], ids=lambda stage: f"zero-{stage}")
def counted(
    ranks: Forge, queue: Queue, tiny: Path, models: Path, request: pytest.FixtureRequest
) -> Counted:
    """The stage, and what each of two ranks counted."""
    made = spec(
        tiny,
        models / "wide",
        f"counted-{request.param}",
        zero_stage=request.param,
        per_device_train_batch_size=1,
    )
    run = start(ranks, queue, made)
    assert run.go() == [0, 0], run.attempt.log("train").read_text()
    files = [run.attempt.dir / f"census.{rank}.json" for rank in (0, 1)]
    return request.param, [json.loads(file.read_text()) for file in files]


def test_no_micro_batch_waits_for_the_device_and_none_is_gathered(counted: Counted) -> None:
    """What is left: DeepSpeed's own and one report a step.

    ZeRO-2 reads the norm of each group that it updates, however many micro-batches there are.
    ZeRO-3 traces the order of weights in its first step, for which it reads a tensor a weight.
    """
    stage, each_rank = counted
    most = MOST_GROUPS if stage == 2 else MICROS - 1
    for rank in each_rank:
        assert len(rank["steps"]) == ROWS // 8
        for step in rank["steps"]:
            assert len(step["micros"]) == MICROS
            work = step["micro-batches"]
            for call in (*work["waits"], *work["collectives"]):
                assert call.endswith(" by deepspeed"), call
            assert step["optimizer"] == {"waits": {"item by accelerate": 1}, "collectives": {}}
            assert step["report"]["waits"] == {"tolist by worker": 1}
            assert step["report"]["collectives"] == {"c10d::allreduce_ by worker": 1}
        assert sum(rank["steps"][-1]["micro-batches"]["waits"].values()) <= most


def test_logits_are_those_of_trained_tokens_alone(counted: Counted) -> None:
    _, each_rank = counted
    for step in (step for rank in each_rank for step in rank["steps"]):
        trained = max(trained for _, trained in step["micros"])
        assert step["widest"] == trained
        assert trained < min(tokens for tokens, _ in step["micros"])


def test_weights_are_mapped_once_a_node_and_sharded_as_they_are_loaded(counted: Counted) -> None:
    stage, each_rank = counted
    for load in (rank["load"] for rank in each_rank):
        assert load["size"] > 30 * MIB
        assert load["read"] < 3 * MIB, "weights come through the mapping, not through read(2)"
        if stage == 2:
            # Pages of the file are the page cache's: the other rank has the same ones.
            assert load["mapped"]["Size"] >= load["size"]
            assert load["mapped"]["Anonymous"] == 0, "no page of it was copied"
            assert load["anonymous_peak"] < load["size"] / 4
        else:
            assert load["anonymous_peak"] < 0.9 * load["size"], "at no time a whole copy"
            assert load["anonymous"] < 0.5 * load["size"] + 4 * MIB


def test_another_engine_than_the_spec_asks_for_is_an_error(counted: Counted) -> None:
    stage, each_rank = counted
    for rank in each_rank:
        wanted = f"ZeRO-{stage} would train, the spec asks for ZeRO-{5 - stage}"
        assert wanted in rank["refused"]["stage"]
        assert "would train, not a DeepSpeedEngine" in rank["refused"]["engine"]


@pytest.mark.parametrize(
    ("family", "opening", "end"),
    [
        ("llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ("gemma", "<start_of_turn>model\n", "<end_of_turn>"),
    ],
)
def test_another_family_trains_end_to_end(
    ranks: Forge, queue: Queue, tiny: Path, models: Path, family: str, opening: str, end: str
) -> None:
    """With the family's own template: from a spec to a model that anybody can load."""
    run = start(ranks, queue, spec(tiny, models / family, family))
    assert run.go(world=1) == [0], run.attempt.log("train").read_text()
    assert len(run.losses) == ROWS // 8
    weights = [place / "model.safetensors" for place in (models / family, run.attempt.final_model)]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    engine = run.summary["engine"]
    assert (engine["class"], engine["attn_implementation"]) == ("DeepSpeedEngine", "segments")
    assert engine["attention"] == "rows by sdpa"
    assert run.phase("reload", 1) == [0], run.attempt.log("reload").read_text()
    found = json.loads((run.attempt.dir / "reload.json").read_text())
    tokenizer = json.loads((run.attempt.final_model / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert found["model_type"] == family.rstrip("3")
    assert found["eos_token_id"] == [ids[end]]
    assert found["prompt"].endswith(opening)
    assert 0 < len(found["written"]) <= 8
