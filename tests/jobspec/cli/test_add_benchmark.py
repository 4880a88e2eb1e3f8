"""`jobspec benchmarks add`: what it refuses, what it shows, what it installs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.benchmarks import own, question_file, registry
from jobspec.errors import BenchmarkError
from tests.support.commands import jobspec, jobspec_json
from tests.support.lm_eval_tasks import needs_sandbox

Q = {"question": "?"}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parsed(file: Path, **defaults: str) -> question_file.QuestionSet:
    return question_file.read(own.benchmark("x", own.Defaults(**defaults)), file)


@pytest.mark.parametrize(
    ("row", "message", "hint"),
    [
        ({"answer": "1"}, "`question` or `problem` is missing", ""),
        (Q, "no reader is named", "number, math, choice"),
        ({**Q, "reader": "number"}, "the field `answer` is missing", "`question` and `answer`"),
        ({**Q, "answer": True, "reader": "exact"}, "`answer` is missing, empty", ""),
        ({**Q, "answer": "blue"}, "no reader is named", "the readers are"),
        ({**Q, "answer": "1", "reader": "numbers"}, "no reader `numbers`", "the readers are"),
        (
            {**Q, "answer": "7!", "reader": "number"},
            "`7!` is not a number",
            "`math` reads formulas",
        ),
        ({**Q, "answer": "…", "reader": "exact"}, "neither letters nor digits", ""),
        ({**Q, "answer": "A", "choices": "AB"}, "`choices` is not a list", '"choices": ['),
        ({**Q, "answer": "A", "choices": ["a"]}, "`choices` is not a list of 2", ""),
        ({**Q, "answer": "A", "choices": ["a", None]}, "`choices` is not a list", ""),
        ({**Q, "answer": "A", "choices": ["Rome", "rome "]}, "are the same", "letter case"),
        ({**Q, "answer": "C", "choices": ["x", "y"]}, "`C` is none of `choices`", "one of AB"),
        ({**Q, "answer": 1, "choices": ["x", "y"]}, "`1` is none", "may count from 0 or 1"),
        ({**Q, "answer": "a", "reader": "regex"}, "needs a pattern", "--pattern"),
        ({**Q, "answer": "a", "reader": "regex", "pattern": "("}, "not valid", "--pattern"),
        ({**Q, "answer": "a", "reader": "regex", "pattern": "(a)(b)"}, "2 groups", "(?:…)"),
        ({**Q, "answer": "x = 1", "reader": "code"}, "needs `tests`", "standard input"),
        ({**Q, "answer": "x = 1", "tests": [{"input": "1"}]}, "needs `tests`", "`output`"),
        ({**Q, "answer": "1", "prompt": "Say it."}, "does not contain {problem}", "{choices}"),
        ({**Q, "answer": "1", "prompt": "{problem} {x}"}, "can't be filled in", "{{ and }}"),
        ({**Q, "answer": "A", "choices": ["x", "y"], "prompt": "{problem}"}, "and {choices}", ""),
    ],
)
def test_each_fault_is_reported_with_its_row(
    tmp_path: Path, row: dict[str, Any], message: str, hint: str
) -> None:
    file = write(tmp_path / "mine.jsonl", {"question": "1 + 1", "answer": 2}, row)
    with pytest.raises(BenchmarkError) as caught:
        parsed(file)
    assert message in caught.value.message
    assert (caught.value.file, caught.value.place) == (str(file), "row 2")
    assert hint in (caught.value.hint or "")


def test_the_reader_is_seen_from_the_row(tmp_path: Path) -> None:
    rows = (
        {**Q, "answer": "1,000.50"},
        {**Q, "answer": "Rome", "choices": ["Paris", "Rome"]},
        {**Q, "answer": "b", "choices": {"A": "Paris", "B": "Rome"}},
        {**Q, "answer": "x = 1", "tests": ["assert x == 1", "assert x > 0"]},
        {**Q, "answer": "Rome", "reader": "exact", "id": 7},
    )
    found = parsed(write(tmp_path / "mine.jsonl", *rows)).questions
    readers = [question.reading.reader for question in found if question.reading]
    assert readers == ["number", "choice", "choice", "code", "exact"]
    assert [question.answer for question in found[:3]] == ["1000.5", "B", "B"]
    assert found[3].reading is not None and found[3].reading.tests == "assert x == 1\nassert x > 0"
    assert [question.id for question in found] == ["1", "2", "3", "4", "7"]


def test_what_is_installed_is_read_as_what_was_added(tmp_path: Path) -> None:
    rows = (
        {**Q, "answer": "Rome", "choices": ["Paris", "Rome"]},
        {**Q, "answer": "print(3)", "tests": [{"input": "1 2", "output": 3}]},
        {**Q, "answer": "e4", "reader": "regex", "pattern": r"Move: (\w+)"},
        {**Q, "answer": "x", "reader": "math", "prompt": "Solve {question}"},
    )
    found = parsed(write(tmp_path / "mine.jsonl", *rows))
    write(tmp_path / "own_x.jsonl", *map(own.to_row, found.questions))
    benchmark = registry.get("own_x")
    assert benchmark is not None
    installed = question_file.read(benchmark, tmp_path / "own_x.jsonl")
    assert installed.questions == found.questions
    asked = [benchmark.ask(question) for question in installed.questions]
    assert "where LETTER is one of AB." in asked[0] and asked[0].endswith("A) Paris\nB) Rome")
    assert "```python" in asked[1] and asked[2:] == ["?", "Solve ?"]


def test_a_benchmark_is_added_listed_and_named_in_a_spec(tmp_path: Path) -> None:
    root = tmp_path / "root"
    rows = [{"question": f"What is {i} / 4?", "answer": i / 4} for i in range(3)]
    file = write(tmp_path / "Quarters.jsonl", *rows)
    added = jobspec_json("benchmarks", "add", file, "--root", root, "--create")
    target = root / "cache" / "benchmarks" / "own_quarters.jsonl"
    assert (added["name"], added["file"]) == ("own_quarters", str(target))
    assert (added["questions"], added["readers"]) == (3, {"number": 3})
    assert len(added["examples"]) == 10
    assert all(each["right"] == each["meant"] for each in added["examples"])
    listed = jobspec_json("benchmarks", "--root", root)["benchmarks"][-1]
    assert (listed["name"], listed["questions"]) == ("own_quarters", 3)
    options = ("--checkpoint", "a/b", "--root", root)
    spec = jobspec_json("eval", *options, "--benchmarks", "own_quarters")
    (part,) = spec["scoring"]["benchmarks"]
    assert (part["benchmark"], part["questions"]) == ("own_quarters", 3)
    done = jobspec("eval", *options, "--benchmarks", "quarters", code=1)
    assert "did you mean `own_quarters`?" in done.stderr
    write(file, *rows[:2])
    done = jobspec("benchmarks", "add", file, "--root", root, code=1)
    assert "with other questions" in done.stderr
    jobspec("benchmarks", "add", file, "--root", root, "--replace")
    assert target.read_text().count("\n") == 2


@needs_sandbox
def test_an_answer_that_fails_its_own_tests_is_refused_with_its_row(tmp_path: Path) -> None:
    good = {**Q, "answer": "def f(): return 1", "tests": "assert f() == 1"}
    file = tmp_path / "programs.jsonl"
    file.write_text(f"{json.dumps(good)}\n\n{json.dumps({**good, 'tests': 'assert f() == 2'})}\n")
    done = jobspec("benchmarks", "add", file, "--benchmark-dir", tmp_path, code=1)
    assert f"{file}, row 3: the answer `def f(): return 1`" in done.stderr
    assert "does not pass its tests" in done.stderr
    assert not list(tmp_path.glob("*own_*"))


def test_programs_without_a_sandbox_are_refused_when_a_spec_is_enqueued(tmp_path: Path) -> None:
    row = {**Q, "answer": "x = 1", "reader": "code", "tests": "assert x == 1"}
    write(tmp_path / "own_x.jsonl", row)
    options = ("--checkpoint", "a/b", "--root", tmp_path / "root", "--benchmarks", "own_x")
    done = jobspec(
        "eval", *options, code=1, JOBSPEC_BENCHMARK_DIR=str(tmp_path), PATH=str(tmp_path / "empty")
    )
    assert "generated code can't be run safely here" in done.stderr
