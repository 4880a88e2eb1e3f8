"""Every benchmark runs from a checkout alone: what it reads, it makes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import questions
from benchmarks.text import draw_rows
from benchmarks.train import OURS, make_spec
from jobspec.benchmarks import question_file, registry
from jobspec.spec import builder
from tests.support.evaluations import environment
from tests.support.paths import REPOSITORY

# The reference data, by its variable, its place, and the helpers of the tests that read it.
_REFERENCE = re.compile(
    r"JOBSPEC_TEST_DATA|shared/data|paths import .*\bDATA\b|needs_data|stories_model"
    r"|\bsft_\w+\.jsonl"
)


@pytest.mark.parametrize("file", sorted((REPOSITORY / "benchmarks").rglob("*.py")), ids=str)
def test_no_benchmark_refers_to_the_reference_data(file: Path) -> None:
    assert _REFERENCE.findall(file.read_text()) == []


def test_what_is_trained_is_made_without_the_reference_data(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    subprocess.run(
        [sys.executable, "-m", "benchmarks.small", str(tmp_path), "8", "2048"],
        cwd=REPOSITORY,
        env=environment(JOBSPEC_TEST_DATA=str(tmp_path / "none")),
        check=True,
    )
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["median"] < facts["longest"] <= 2048 and facts["parameters"] > 10**6
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("ours.jsonl", "rows/train.jsonl")
    )
    assert [row["messages"] for row in ours] == [r["prompt"] + r["completion"] for r in theirs]
    assert len(ours) == facts["rows"] == 8


def test_our_route_is_what_jobspec_new_writes(tmp_path: Path) -> None:
    default, unpacked = (make_spec(tmp_path, "n", 4, settings) for settings in OURS.values())
    (new,) = builder.build(builder.Request(models=["m"]))
    assert default.train is not None and new.train is not None and unpacked.train is not None
    chosen = ("learning_rate", "num_train_epochs", "max_length", "per_device_train_batch_size")
    for field in new.train.__struct_fields__:
        if field not in chosen:
            assert getattr(default.train, field) == getattr(new.train, field), field
    assert unpacked.train.packing is False


def test_recorded_answers_of_every_form_are_right() -> None:
    evaluate = pytest.importorskip("benchmarks.evaluate")
    assert "(500 of 500 right" in evaluate.measure_scoring()


def test_the_model_that_generates_counts_its_own_words_again(tmp_path: Path) -> None:
    evaluate = pytest.importorskip("benchmarks.evaluate")
    transformers = pytest.importorskip("transformers")
    model = evaluate.make_model(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    ids = list(range(2, evaluate.VOCABULARY))
    assert tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"] == ids


def test_questions_are_as_many_and_of_the_form_of_the_benchmarks(tmp_path: Path) -> None:
    file = questions.write(tmp_path / "aime60.jsonl", questions.aime())
    benchmark = registry.get("aime60")
    assert benchmark is not None
    assert len(question_file.read(benchmark, file).questions) == 60
    assert len({row["id"] for row in questions.math500()}) == 500


def test_rows_are_as_long_as_reasoning_traces_and_the_same_each_time() -> None:
    rows = draw_rows(200)
    assert rows == draw_rows(200)
    words = sorted(len(answer["content"].split()) for _, answer in rows)
    assert 700 < words[100] < 1200  # of real ones 933
    assert 350 < words[50] < 650 and 1500 < words[150] < 2600  # 563 and 2,101
