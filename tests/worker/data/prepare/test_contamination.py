"""Benchmarks' questions among the rows that are trained."""

from __future__ import annotations

from pathlib import Path

from jobspec.records.reports import Overlap
from jobspec.storage.layout import RootPaths
from tests.support.prepared import sums, write_rows
from tests.support.specs import train_spec
from worker.data import contamination
from worker.data.pipeline import prepare

QUESTION = (
    "Every morning Aya goes for a 9-kilometer-long walk and stops at a coffee shop afterwards. "
    "When she walks at s kilometers per hour, the walk takes her 4 hours."
)


def test_benchmark_questions_in_the_data_are_counted(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = sums(20)
    rows[6]["messages"][0]["content"] = f"Solve: {QUESTION.upper().replace(',', ' ,')}"
    rows[8]["messages"].insert(0, {"role": "system", "content": "What's the sum of 3 and 4, then?"})
    file = write_rows(tmp_path / "rows.jsonl", rows)
    asked = [("q1", QUESTION), ("q2", "what's the sum of 3 and 4, then?"), ("q3", "Find x.")]
    asked.append(("q4", QUESTION.replace("walk", "run")))
    questions = [{"id": name, "problem": text, "answer": "1"} for name, text in asked]
    benchmarks = tmp_path / "benchmarks"
    benchmarks.mkdir()
    write_rows(benchmarks / "aime24.jsonl", questions)
    wanted = {"benchmarks": ["aime24", "aime25"], "benchmark_dir": str(benchmarks)}
    made = train_spec(model, file, eval=wanted)
    for _ in range(2):  # measured, and kept
        assert prepare(made, root).overlap == {
            "aime24": Overlap(
                questions=4,
                judged=3,
                questions_found=2,
                rows_found=2,
                examples=(("q1", 7), ("q2", 9)),
            ),
            "aime25": None,
        }


def test_a_run_of_thirteen_words_is_found_and_twelve_are_not() -> None:
    words = QUESTION.split()
    index = contamination.QuestionIndex.of([QUESTION])
    thirteen = " ".join(words[2:14])  # `9-kilometer-long` counts as three
    assert index.find(f"so {thirteen} it is") == {0}
    assert index.find(f"so {' '.join(words[2:12])} it is") == set()
