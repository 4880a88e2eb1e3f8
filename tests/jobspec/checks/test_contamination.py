"""Benchmark questions in the rows: what `enqueue` refuses and warns of, checked rows or not."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from jobspec.checks import check, contamination
from jobspec.errors import JobspecError
from jobspec.records.reports import Overlap
from jobspec.spec import identity, parsing
from tests.support.checks import chat_line, checked, refusal, spec_file

QUESTION = "A rectangle has sides of 11 and 12 units; how long is its diagonal, in units?"
OWN = ('eval.benchmarks=["aime_own"]', "eval.benchmark_dir=bench")


@pytest.fixture
def asked(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark with one question, which row 3 contains."""
    (place / "bench").mkdir()
    row = {"id": "q1", "problem": QUESTION, "answer": "16"}
    (place / "bench/aime_own.jsonl").write_text(json.dumps(row) + "\n")
    lines = [chat_line("2+2?", "4"), "", chat_line(f"Solve it: {QUESTION}", "16")]
    (place / "train.jsonl").write_text("\n".join(lines) + "\n")
    return place


def test_rows_that_are_not_checked_are_searched_all_the_same(asked: Path) -> None:
    error = refusal(*OWN)
    assert (error.file, error.place) == (str(asked / "train.jsonl"), "row 3")
    assert "question `q1` of the benchmark aime_own" in error.message
    assert "data.allow_contaminated" in str(error.hint)
    (warning,) = checked(*OWN, "data.allow_contaminated=true").warnings
    assert "1 row contains 1 of 1 questions of aime_own" in warning
    assert not (asked / "root").exists(), "checking makes no root"


def test_the_search_runs_here_even_where_an_image_is_named(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", "/nowhere/apptainer exec x.sif python")
    assert refusal(*OWN).place == "row 3"


def test_where_it_can_not_run_enqueue_says_so(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(JobspecError, match="can't be run"):
        checked(*OWN)
    bare = asked / "bare"
    real = Path(sys.prefix) / "bin/python"
    bare.write_text(f'#!/bin/sh\nexec {shlex.quote(str(real))} -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    (warning,) = checked(*OWN).warnings
    assert "`worker` is missing" in warning or "is missing" in warning
    assert warning.endswith("prepare searches them before training")


def test_benchmarks_whose_questions_are_not_here_are_named(asked: Path) -> None:
    (asked / "bench/aime_own.jsonl").rename(asked / "bench/aime_other.jsonl")
    warnings = checked(
        'eval.benchmarks=["aime24", "minerva_math500"]', "eval.benchmark_dir=bench"
    ).warnings
    assert any(
        "aime24, minerva_math500: no file here, so the rows were not searched" in warning
        and "prepare searches them before training" in warning
        for warning in warnings
    )


def test_what_was_found_and_what_was_not_sought_is_a_warning() -> None:
    found = Overlap(questions=30, judged=30, questions_found=2, rows_found=1200)
    none = Overlap(questions=30, judged=30, questions_found=0, rows_found=0)
    warnings = list(contamination.warn({"aime24": found, "aime25": none, "gsm8k": None}))
    assert len(warnings) == 2
    assert "1,200 rows contain 2 of 30 questions of aime24" in warnings[0]
    assert warnings[1].startswith("gsm8k: lm-eval's questions")


def test_a_spec_that_does_not_allow_it_keeps_its_id(place: Path) -> None:
    said = parsing.load(spec_file("data.allow_contaminated=false"))
    assert b"allow_contaminated" not in identity.canonical(said)
    allowed = parsing.load(spec_file("data.allow_contaminated=true"))
    assert b'"allow_contaminated":true' in identity.canonical(allowed).replace(b": ", b":")
    assert check.complete(allowed).data is not None
