"""Benchmarks' questions among the rows of a file: what prepare reports, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.errors import DataError
from jobspec.records import exit_codes
from jobspec.records.attempt import PhaseError
from jobspec.records.base import Reason
from jobspec.records.reports import Overlap
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths
from tests.support.paths import REPOSITORY
from tests.support.prepared import run_prepare, sums, write_rows
from tests.support.queues import attempt_of
from tests.support.specs import train_spec, write_spec
from worker.contamination.search_command import search
from worker.data.pipeline import prepare

QUESTION = (
    "Every morning Aya goes for a 9-kilometer-long walk and stops at a coffee shop afterwards. "
    "When she walks at s kilometers per hour, the walk takes her 4 hours."
)
ASKED = {
    "q1": QUESTION,
    "q2": "what's the sum of 3 and 4, then?",
    "q3": "Find x.",
    "q4": "A rectangle has sides of 11 and 12 units; how long is its diagonal, in units?",
}


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    directory = tmp_path / "benchmarks"
    directory.mkdir()
    asked = [{"id": name, "problem": text, "answer": "1"} for name, text in ASKED.items()]
    write_rows(directory / "aime24.jsonl", asked)
    write_rows(directory / "aime_own.jsonl", asked[:1])
    return directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 rows, of which rows 7 and 9 contain a question."""
    rows = sums(20)
    rows[6]["messages"][0]["content"] = f"Solve: {QUESTION.upper().replace(',', ' ,')}"
    rows[8]["messages"].insert(0, {"role": "system", "content": "What's the sum of 3 and 4, then?"})
    return write_rows(tmp_path / "rows.jsonl", rows)


def spec(
    model: Path, data: Path, benchmarks: Path, *names: str, allowed: bool = False, **changes: Any
) -> JobSpec:
    wanted = {"benchmarks": names or ("aime24", "aime25"), "benchmark_dir": str(benchmarks)}
    return train_spec(model, data, eval=wanted, data__allow_contaminated=allowed, **changes)


FOUND = Overlap(
    questions=4,
    judged=3,
    questions_found=2,
    rows_found=2,
    examples=(("q1", 7), ("q2", 9)),
    rows=(7, 9),
    first_row=7,
)


def test_allowed_questions_are_counted(
    root: RootPaths, model: Path, data: Path, benchmarks: Path
) -> None:
    made = spec(model, data, benchmarks, allowed=True)
    for _ in range(2):  # measured, and kept
        assert prepare(made, root).overlap == {"aime24": FOUND, "aime25": None}


def test_a_row_with_a_question_refuses_the_data(
    root: RootPaths, model: Path, data: Path, benchmarks: Path
) -> None:
    made = spec(model, data, benchmarks, "aime24", "aime_own")
    for run in (lambda: prepare(made, root), lambda: search(made, root)):
        with pytest.raises(DataError) as caught:
            run()
        error = caught.value
        assert (error.file, error.place) == (str(data), "row 7")
        assert "question `q1` of the benchmark aime24" in error.message
        assert "aime24: 2 rows with 2 questions; aime_own: 1 row with 1 question" in error.message
        assert "data.allow_contaminated" in str(error.hint)


def test_a_row_of_a_directory_is_named_by_its_file(
    root: RootPaths, model: Path, data: Path, benchmarks: Path
) -> None:
    parts = data.with_name("parts")
    parts.mkdir()
    lines = data.read_text().splitlines(keepends=True)
    for name, part in (("a.jsonl", lines[:5]), ("b.jsonl", lines[5:])):
        (parts / name).write_text("".join(part))
    made = spec(model, parts, benchmarks)
    for run in (lambda: prepare(made, root), lambda: search(made, root)):
        with pytest.raises(DataError) as caught:
            run()
        assert (caught.value.file, caught.value.place) == (str(parts / "b.jsonl"), "row 2")


def test_a_row_of_a_mixture_is_named_by_its_file(
    root: RootPaths, model: Path, data: Path, benchmarks: Path, tmp_path: Path
) -> None:
    other = write_rows(tmp_path / "other.jsonl", sums(7))
    mixed = {"data__path": None, "data__sources": [{"path": other}, {"path": data}]}
    made = spec(model, data, benchmarks, **mixed)
    for run in (lambda: prepare(made, root), lambda: search(made, root)):
        with pytest.raises(DataError) as caught:
            run()
        assert (caught.value.file, caught.value.place) == (str(data), "row 7")
    allowed = spec(model, data, benchmarks, allowed=True, **mixed)
    found = search(allowed, root).overlap["aime24"]
    assert found is not None
    assert (found.rows, found.first_source, found.first_row) == ((14, 16), 1, 7)


def test_rows_of_the_held_out_split_and_dropped_rows_count_too(
    root: RootPaths, model: Path, data: Path, benchmarks: Path
) -> None:
    for changes in ({"data__eval_split_ratio": 0.5}, {"data__max_train_samples": 1}):
        with pytest.raises(DataError, match="2 rows with 2 questions"):
            prepare(spec(model, data, benchmarks, "aime24", **changes), root)


def test_without_scoring_nothing_is_searched(
    root: RootPaths, model: Path, data: Path, benchmarks: Path
) -> None:
    assert prepare(train_spec(model, data, eval=None), root).overlap == {}


def test_the_prepare_phase_ends_the_attempt_and_is_not_retried(
    root: RootPaths, model: Path, data: Path, benchmarks: Path
) -> None:
    attempt = attempt_of(root.root, spec(model, data, benchmarks)).dir
    done = run_prepare(attempt)
    assert done.returncode == exit_codes.REFUSED
    error = msgspec.json.decode((attempt / "error.json").read_bytes(), type=PhaseError)
    assert error.kind is Reason.FAILED
    assert "row 7: contains question `q1`" in error.message


def test_the_search_needs_neither_model_nor_packages_of_the_worker(
    data: Path, benchmarks: Path, tmp_path: Path
) -> None:
    made = spec(Path("no/model"), data, benchmarks, allowed=True)
    file = write_spec(tmp_path / "spec.json", made)
    code = (
        "import sys, runpy\n"
        "for name in ('torch', 'transformers', 'tokenizers', 'jinja2', 'numpy', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        "runpy.run_module('worker.contamination.search_command', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(file), "--root", str(tmp_path / "root")]
    found = json.loads(subprocess.check_output(command, cwd=REPOSITORY))["overlap"]
    assert (found["aime24"]["rows"], found["aime25"]) == ([7, 9], None)


def test_rows_of_another_format_and_compression_are_searched(
    root: RootPaths, model: Path, data: Path, benchmarks: Path
) -> None:
    import gzip

    lines = [json.loads(line)["messages"] for line in data.read_text().splitlines()]
    rows = [{"prompt": one[:-1], "completion": one[-1]["content"]} for one in lines]
    packed = data.with_name("rows.json.gz")
    packed.write_bytes(gzip.compress(json.dumps(rows).encode("utf-16")))
    assert search(spec(model, packed, benchmarks, allowed=True), root).overlap["aime24"] == FOUND
