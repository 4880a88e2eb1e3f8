"""Benchmark files: where they are looked for and what is refused; prompts of the real families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.benchmark import PROMPT, Benchmark
from jobspec.errors import BenchmarkError
from tests.support.evaluations import aime_file, questions
from tests.support.models import byte_tokenizer
from tests.support.paths import DATA, needs_data
from worker.evaluation.lm_eval_model import SamplingLM
from worker.thinking import think_tags


def known(name: str) -> Benchmark:
    benchmark = registry.get(name)
    assert benchmark is not None
    return benchmark


AIME_X = known("aime_x")


def test_directories_are_tried_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("spec", "environment", "cache")]
    monkeypatch.setenv("JOBSPEC_BENCHMARK_DIR", str(places[1]))
    where = question_file.directories(str(places[0]), places[2])
    assert where == tuple(places)
    for place in reversed(places):
        assert question_file.find(AIME_X, where) == (
            None if place == places[2] else places[places.index(place) + 1] / "aime_x.jsonl"
        )
        aime_file(place, questions(1), "aime_x")
    assert question_file.find(AIME_X, where) == places[0] / "aime_x.jsonl"


@needs_data
@pytest.mark.parametrize(
    ("name", "count"), [("minerva_math500", 500), ("aime24", 30), ("aime25", 30)]
)
def test_the_real_files(name: str, count: int) -> None:
    benchmark = known(name)
    found = question_file.read(benchmark, DATA / benchmark.files[0])
    assert len(found.questions) == len({question.id for question in found.questions}) == count
    assert benchmark.question_count == count
    if benchmark.grader == "integer":
        assert all(str(int(q.answer)) == q.answer for q in found.questions)
    else:
        assert all(q.solution for q in found.questions)


def test_answers_may_be_numbers_or_padded_text(tmp_path: Path) -> None:
    rows = [{"id": 7, "problem": "?", "answer": 25}, {"id": "b", "problem": "?", "answer": "025"}]
    found = question_file.read(AIME_X, aime_file(tmp_path, rows, "aime_x") / "aime_x.jsonl")
    assert [(q.id, q.answer) for q in found.questions] == [("7", "25"), ("b", "25")]


@pytest.mark.parametrize("answer", ["33.0", '"33.0"', '"033"', '" 33 "', "33", '"33."'])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_whole_number_may_be_written_as_a_decimal_and_after_a_byte_order_mark(
    tmp_path: Path, answer: str, mark: bytes
) -> None:
    file = tmp_path / "aime_x.jsonl"
    file.write_bytes(mark + f'{{"id": 1.0, "problem": "?", "answer": {answer}}}\n'.encode())
    (found,) = question_file.read(AIME_X, file).questions
    assert (found.id, found.answer) == ("1", "33")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b'{"id": "a", "problem": "?", "answer": 33.5}', "row 1: the field `answer`"),
        (b'{"id": "a", "problem": "?", "answer": "33.5"}', "row 1: the answer `33.5`"),
        (b'{"id": "a"\n', "row 1: not valid JSON"),
        (b'\n\n["a"]\n', "row 3: not a JSON object"),
        (b'{"id": "a", "problem": " ", "answer": 1}', "row 1: the field `problem` is missing"),
        (b'{"id": true, "problem": "?", "answer": 1}', "row 1: the field `id`"),
        (b'{"id": "a", "problem": "?", "answer": -1}', "row 1: the answer `-1`"),
        ('{"id": "a", "problem": "?", "answer": "٧"}'.encode(), "row 1: the answer `٧`"),
        (b'{"id": "a", "problem": "?", "answer": "' + b"9" * 5000 + b'"}', "row 1: the answer"),
        (b'\xff{"id"', "row 1: not valid JSON"),
        (b"\n", "has no questions"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_row(
    tmp_path: Path, data: bytes, wanted: str
) -> None:
    file = tmp_path / "aime_x.jsonl"
    file.write_bytes(data)
    with pytest.raises(BenchmarkError) as caught:
        question_file.read(AIME_X, file)
    assert wanted in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="can't be read: No such file"):
        question_file.read(AIME_X, tmp_path / "aime_x.jsonl")


# --- whether a template opens the thinking


def lm(template: str, **kwargs: Any) -> SamplingLM:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), eos_token="<|endoftext|>", chat_template=template
    )
    return SamplingLM(tokenizer, kwargs, lambda prompts: {})


@needs_data
@pytest.mark.parametrize(
    ("file", "kwargs", "opens"),
    [
        ("qwen3", {}, False),
        ("qwen3", {"enable_thinking": True}, False),
        ("qwen3", {"enable_thinking": False}, False),  # opened and closed by the template itself
        ("qwen3_nonthinking", {}, False),
        ("olmo3_7b_instruct", {}, False),
        ("olmo3_7b_think_default_dec2024", {}, True),
        ("openinstruct_olmo_thinker", {}, True),
        ("trl_qwen2_5", {}, False),
    ],
)
def test_whether_a_real_template_opens_the_thinking(
    file: str, kwargs: dict[str, Any], opens: bool
) -> None:
    made = lm((DATA / "templates" / f"{file}.jinja").read_text(), **kwargs)
    assert made.opens_think(think_tags("</think>")) is opens


def test_a_prefilled_thought_counts_as_open() -> None:
    made = lm("{{ messages[0].content }}{% if add_generation_prompt %}<think>\nOkay,{% endif %}")
    assert made.opens_think(think_tags("</think>"))
    assert not made.opens_think(None)


def test_the_prompt_is_the_documented_one() -> None:
    docs = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    asked = PROMPT.format(problem="P")
    assert asked.startswith("P\n\n")
    assert f"`{asked[3:]}`" in docs
