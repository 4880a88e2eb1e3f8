"""A mixture through prepare and training: struck and resumed it ends as the undisturbed run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.checks.data import complete
from jobspec.queue.queue import Queue
from jobspec.records.metrics import history
from jobspec.spec.schema import DataSpec, JobSpec, SourceSpec
from tests.support.queues import queue_at
from tests.support.ranks import Forge, Run, Strike, forge, start
from tests.support.specs import tiny_spec

pytestmark = pytest.mark.deepspeed

EPOCHS = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    with forge(tmp_path_factory.mktemp("forge")) as running:
        yield running


@pytest.fixture(scope="module")
def sources(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SourceSpec, ...]:
    """The demo's rows in two files: the prompts of one in one, every second row again in both."""
    place = tmp_path_factory.mktemp("sources")
    lines = (tiny / "train.jsonl").read_bytes().splitlines(keepends=True)
    chat, sums = place / "chat.jsonl", place / "sums.jsonl.gz"
    chat.write_bytes(b"".join(lines[:60]))
    sums.write_bytes(gzip.compress(b"".join(lines[48:84])))
    return (
        SourceSpec(path=str(chat)),
        SourceSpec(path=str(sums), name="math", repeat=1.5),
    )


def spec(tiny: Path, name: str, sources: tuple[SourceSpec, ...]) -> JobSpec:
    made = tiny_spec(tiny, name=name, num_train_epochs=float(EPOCHS))
    data = complete(DataSpec(sources=sources, eval_split_ratio=0.2), None)
    return msgspec.structs.replace(made, data=data)


def eval_rows(run: Run) -> dict[int, dict[str, float]]:
    """The held-out losses, of all and by source, by step."""
    rows = [row for row in history(run.job) if "eval_loss" in row]
    return {
        row["step"]: {name: value for name, value in row.items() if "eval_loss" in name}
        for row in rows
    }


def trained(run: Run) -> dict[str, list[int]]:
    rows = [row for row in history(run.job) if "loss" in row]
    return {name: [row[f"trained_tokens/{name}"] for row in rows] for name in ("chat", "math")}


def test_a_struck_mixture_ends_as_the_calm_one_bit_for_bit(
    ranks: Forge, tiny: Path, sources: tuple[SourceSpec, ...], tmp_path: Path
) -> None:
    queue: Queue = queue_at(tmp_path)
    calm = start(ranks, queue, spec(tiny, "calm", sources))
    assert calm.go(world=1) == [0], calm.attempt.log("train").read_text()
    run = start(ranks, queue, spec(tiny, "struck", sources))
    assert run.go(Strike("step", "SIGTERM", nth=4), world=1) == [75]
    assert run.go(Strike("evaluation", "SIGTERM"), world=1) == [75]
    assert run.go(world=1) == [0], run.history
    assert run.losses == calm.losses
    assert eval_rows(run) == eval_rows(calm)
    assert trained(run) == trained(calm)
    assert run.summary["sources"] == calm.summary["sources"]
    check_counts(calm, json.loads(calm.attempt.done("prepare").read_text()))


def check_counts(run: Run, prepared: dict[str, Any]) -> None:
    """What is reported of each source fits the prepared rows, and the whole."""
    found = run.summary["sources"]
    assert list(found) == ["chat", "math"]
    for source in prepared["sources"]:
        mine = found[source["name"]]
        for name in ("rows", "tokens", "trained_tokens"):
            assert mine[name] == EPOCHS * source["train"][name]
        assert mine["trained_tokens"] == trained(run)[source["name"]][-1]
        assert source["eval"]["rows"] > 0
        assert mine["eval_loss"] < mine["eval_loss_first"]
    assert prepared["sources"][1]["repeat"] == pytest.approx(1.5, abs=0.05)
    assert sum(mine["tokens"] for mine in found.values()) == run.summary["tokens"]

    losses = eval_rows(run)
    assert len(losses) == EPOCHS + 1
    tokens = {each["name"]: each["eval"]["trained_tokens"] for each in prepared["sources"]}
    for row in losses.values():
        weighted = sum(row[f"eval_loss/{name}"] * count for name, count in tokens.items())
        assert weighted / sum(tokens.values()) == pytest.approx(row["eval_loss"], rel=1e-6)
        assert row["eval_loss/chat"] != row["eval_loss/math"]
    first, *_, last = losses.values()
    assert found["math"]["eval_loss_first"] == first["eval_loss/math"]
    assert found["math"]["eval_loss"] == last["eval_loss/math"]
