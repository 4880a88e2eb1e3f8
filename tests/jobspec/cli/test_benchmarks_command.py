"""`jobspec benchmarks`: what there is, and where its questions are."""

from __future__ import annotations

from pathlib import Path

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
    assert list(rows) == [
        "minerva_math500", "aime24", "aime25", "gpqa_diamond", "aime_broken", "aime_mine"
    ]  # fmt: skip
    assert {name: row["questions"] for name, row in rows.items()} == {
        "minerva_math500": 500, "aime24": 4, "aime25": 30, "gpqa_diamond": 198,
        "aime_broken": None, "aime_mine": 3,
    }  # fmt: skip
    assert rows["aime24"]["file"] == str(given / "aime24.jsonl")
    assert rows["aime25"]["file"] == str(root / "cache" / "benchmarks" / "aime25.jsonl")
    assert rows["minerva_math500"]["file"] is None
    assert [name for name, row in rows.items() if row["downloadable"]] == list(rows)[:3]
    assert rows["gpqa_diamond"]["metric"] == "avg_at_10"


def test_the_table_says_how_to_get_what_is_not_here(tmp_path: Path) -> None:
    lines = jobspec("benchmarks", "--root", tmp_path).stdout.splitlines()
    assert lines[0].split() == ["NAME", "BENCHMARK", "QUESTIONS", "METRIC", "SAMPLES", "HERE"]
    assert lines[1].split()[:5] == ["minerva_math500", "MATH-500", "500", "math_verify", "1"]
    assert lines[1].endswith("no; `jobspec fetch` downloads it")
    assert "huggingface.co/datasets/Idavidrein/gpqa" in lines[4]
    assert not list(tmp_path.iterdir()), "looking makes no root"
