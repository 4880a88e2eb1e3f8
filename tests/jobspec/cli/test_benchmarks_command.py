"""`jobspec benchmarks`: what there is, and where its questions are."""

from __future__ import annotations

from pathlib import Path

from jobspec.benchmarks import registry
from tests.support.commands import jobspec, jobspec_json
from tests.support.evaluations import aime_file, questions


def test_every_benchmark_is_listed_with_its_file(tmp_path: Path) -> None:
    root, given = tmp_path / "root", tmp_path / "given"
    aime_file(root / "cache" / "benchmarks", questions(30), "aime25")
    aime_file(given, questions(4), "aime24")
    aime_file(given, questions(3), "aime_mine")
    aime_file(given, questions(3), "unrelated")
    (given / "aime_broken.jsonl").write_text("{")
    printed = jobspec_json("benchmarks", "--benchmark-dir", given, "--root", root)["benchmarks"]
    rows = {row["name"]: row for row in printed}
    named = [each.name for each in registry.all_benchmarks()]
    assert list(rows) == [*named, "aime_broken", "aime_mine"]
    questions_here = {
        "minerva_math500": 500, "aime24": 4, "aime25": 30, "gpqa_diamond": 198,
        "aime_broken": None, "aime_mine": 3,
    }  # fmt: skip
    assert {name: rows[name]["questions"] for name in questions_here} == questions_here
    assert rows["aime24"]["file"] == str(given / "aime24.jsonl")
    assert rows["aime25"]["file"] == str(root / "cache" / "benchmarks" / "aime25.jsonl")
    assert rows["minerva_math500"]["file"] is None
    downloadable = [name for name in questions_here if rows[name]["downloadable"]]
    assert downloadable == ["minerva_math500", "aime24", "aime25"]
    assert rows["gpqa_diamond"]["metric"] == "avg_at_10"


def test_the_table_says_how_to_get_what_is_not_here(tmp_path: Path) -> None:
    lines = jobspec("benchmarks", "--root", tmp_path).stdout.splitlines()
    assert lines[0].split() == ["NAME", "BENCHMARK", "QUESTIONS", "METRIC", "SAMPLES", "HERE"]
    assert lines[1].split()[:5] == ["minerva_math500", "MATH-500", "500", "math_verify", "1"]
    assert lines[1].endswith("no; `jobspec fetch` downloads it")
    (gpqa,) = (line for line in lines if line.startswith("gpqa_diamond"))
    assert "huggingface.co/datasets/Idavidrein/gpqa" in gpqa
    assert not list(tmp_path.iterdir()), "looking makes no root"
