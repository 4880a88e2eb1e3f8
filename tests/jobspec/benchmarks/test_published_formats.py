"""Benchmarks in the columns that they are published in: what is asked, and what counts as right."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.errors import BenchmarkError
from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan
from tests.support.lm_eval_tasks import needs_sandbox
from tests.support.nltk_files import make_punkt
from tests.support.published_rows import FORMATS
from worker.evaluation import scoring
from worker.grading.math_grader import MathGrader


@pytest.fixture(scope="module", autouse=True)
def punkt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLTK_DATA", str(make_punkt(tmp_path_factory.mktemp("nltk"))))
        yield


def read(directory: Path, name: str, *rows: dict[str, Any]) -> QuestionSet:
    benchmark = registry.get(name)
    assert benchmark is not None
    file = directory / benchmark.files[0]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return question_file.read(benchmark, file)


@needs_sandbox
@pytest.mark.parametrize("name", FORMATS)
def test_right_answers_count_only_after_the_thinking(name: str, tmp_path: Path) -> None:
    row, right, wrong = FORMATS[name]
    found = read(tmp_path, name, row)
    (question,) = found.questions
    texts = [f"<think>{wrong}</think>\n{right}", f"<think>{right}</think>\n{wrong}"]
    texts += [f"<think>{right}", ""]
    drawn = [
        Generation(question=question.id, sample=i, seed=i, text=text, tokens=1, finish="stop")
        for i, text in enumerate(texts)
    ]
    plan = SamplingPlan(key="", benchmark=name, k=4, chunks=1, think_end_token="</think>")
    asked = AskedQuestion(id=question.id, answer=question.answer, reading=question.reading)
    with MathGrader(processes=1) as math:
        (score,) = scoring.score(found.benchmark, plan, [(asked, drawn)], math)
    assert [sample.right for sample in score.samples] == [True, False, False, False]
    assert score.samples[0].rule is not None
    assert found.benchmark.dataset is not None
    assert set(found.benchmark.dataset.columns.values()) <= set(row)


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_without_one_of_its_fields_is_refused(name: str, tmp_path: Path) -> None:
    row, _, _ = FORMATS[name]
    benchmark = registry.get(name)
    assert benchmark is not None
    optional = {"starter_code", "metadata", "test_list"}
    for field in set(benchmark.fields) - optional:
        with pytest.raises(BenchmarkError) as caught:
            read(tmp_path, name, row, {key: row[key] for key in row if key != field})
        assert "row 2" in str(caught.value)


def test_what_is_asked(tmp_path: Path) -> None:
    asked = {}
    for name, (row, _, _) in FORMATS.items():
        found = read(tmp_path, name, row)
        asked[name] = found.benchmark.ask(found.questions[0])
    assert "where LETTER is one of ABC." in asked["mmlu_pro_chat"]
    assert asked["gsm8k_chat"].endswith("put your final answer within \\boxed{}.")
    assert asked["ifeval_chat"] == FORMATS["ifeval_chat"][0]["prompt"]
    assert "def total(x: List[int]) -> int:" in asked["humaneval_plus_chat"]
    assert "assert add(1, 2) == 3" in asked["mbpp_plus_chat"]
    assert "class Solution:\n    def join(self, a: str) -> dict: {}" in asked["livecodebench"]


def test_hidden_tests_may_not_call_code(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "called"),)

    row, _, _ = FORMATS["livecodebench"]
    hidden = base64.b64encode(zlib.compress(pickle.dumps(Call()))).decode()
    with pytest.raises(BenchmarkError, match="its tests can't be read"):
        read(tmp_path, "livecodebench", {**row, "private_test_cases": hidden})
    assert not (tmp_path / "called").exists()
