"""NLTK's `punkt_tab`: found, copied for this user alone, and missed at enqueue."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobspec.benchmarks import ifeval, registry
from jobspec.errors import BenchmarkError
from jobspec.records.evaluation import AskedQuestion
from jobspec.spec.schema import EvalSpec
from jobspec.storage.layout import RootPaths
from tests.support.commands import run_checked
from tests.support.nltk_files import make_punkt
from tests.support.published_rows import FORMATS
from tests.support.specs import job_spec
from worker.grading.graders import GRADERS
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import Judgement
from worker.lm_eval_tasks import nltk_data, task_check
from worker.lm_eval_tasks.task_loading import DataMissing, TaskLibrary

SPLIT = "from nltk.tokenize import sent_tokenize; print(sent_tokenize('He came. She left.'))"


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the data."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delenv(nltk_data.VARIABLE, raising=False)


@pytest.mark.usefixtures("nowhere")
def test_data_that_a_group_may_write_is_read_as_a_private_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = make_punkt(tmp_path / "shared")
    for path in (shared, *shared.rglob("*")):
        path.chmod(path.stat().st_mode | 0o020)
    monkeypatch.setenv(nltk_data.VARIABLE, str(shared))
    with pytest.raises(AssertionError, match="writable"):
        run_checked([sys.executable, "-c", SPLIT])
    with nltk_data.readable(tmp_path):
        assert "'He came.', 'She left.'" in run_checked([sys.executable, "-c", SPLIT])
        copy = Path(os.environ[nltk_data.VARIABLE])
    assert os.environ[nltk_data.VARIABLE] == str(shared)
    assert not copy.exists()


@pytest.mark.usefixtures("nowhere")
def test_without_the_data_every_place_says_how_to_get_it(tmp_path: Path) -> None:
    with nltk_data.readable(tmp_path):
        assert nltk_data.find() is None
    with pytest.raises(BenchmarkError, match="punkt_tab` to count sentences") as caught:
        judge("x")
    assert "jobspec fetch" in str(caught.value.hint)
    with pytest.raises(DataMissing, match="`ifeval` needs NLTK's `punkt_tab`"):
        TaskLibrary(EvalSpec(benchmarks=("ifeval",))).load("ifeval")
    ours = job_spec(eval={"benchmarks": ["ifeval_chat"]})
    answer = task_check.check(ours, RootPaths(tmp_path / "root"))
    assert answer.without_data == ("ifeval_chat",)


@pytest.mark.usefixtures("nowhere")
def test_data_in_the_root_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_punkt(tmp_path / "other")
    monkeypatch.setenv(nltk_data.VARIABLE, str(other))
    assert nltk_data.fetch(tmp_path / "root").endswith(str(other / "tokenizers" / "punkt_tab"))
    root = make_punkt(tmp_path / "root")
    nltk_data.look_in(root)
    assert nltk_data.require("x") == root / "tokenizers" / "punkt_tab"


@pytest.mark.usefixtures("nowhere")
def test_a_download_that_fails_names_the_file_to_get(tmp_path: Path) -> None:
    before = dict(os.environ)
    with pytest.raises(BenchmarkError, match="can't be downloaded") as caught:
        nltk_data.fetch(tmp_path / "root", "http://127.0.0.1:9/index.xml")
    assert dict(os.environ) == before  # what is loaded next finds what was there
    assert "punkt_tab.zip" in str(caught.value.hint)
    assert not (tmp_path / "root").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk_data, "PACKAGES", ("nltk", "no_such_package"))
    with pytest.raises(BenchmarkError, match="needs the Python package `no_such_package`"):
        task_check.check(job_spec(eval={"benchmarks": ["ifeval_chat"]}), RootPaths(Path("/r")))


def judge(*texts: str) -> Sequence[Judgement]:
    benchmark = registry.get("ifeval_chat")
    assert benchmark is not None
    row, _, _ = FORMATS["ifeval_chat"]
    names = [*row["instruction_id_list"], "language:response_language", "keywords:frequency"]
    more = [{"language": "de"}, {"keyword": "Apfel", "frequency": 1, "relation": "at least"}]
    reading = ifeval.reading(names, "?", [*row["kwargs"], *more])
    question = AskedQuestion(id="1", answer="", reading=reading)
    with MathGrader(processes=1) as math:
        (judged,) = GRADERS[benchmark.grader](benchmark, [question], [list(texts)], math)
    return judged


def test_the_answer_names_the_instructions_that_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(nltk_data.VARIABLE, str(make_punkt(tmp_path / "nltk")))
    good = "Das ist ein Apfel. Er liegt auf dem Tisch und ist sehr rot."
    judged = judge(good, "Das ist ein Apfel, und er liegt auf dem Tisch.", "An apple. Two.", "")
    assert judged[0] == Judgement(True, "follows its instructions", "instructions")
    assert judged[1].answer == "breaks punctuation:no_comma, length_constraints:number_sentences"
    assert judged[2].answer == "breaks language:response_language, keywords:frequency"
    assert not judged[3].right
