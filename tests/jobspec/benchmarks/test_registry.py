"""Which names are benchmarks of jobspec's, and which benchmark each name means."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobspec.benchmarks import DEFAULT, question_file, registry
from jobspec.benchmarks.lm_eval_names import lm_eval_names
from tests.support.commands import environment


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("minerva_math500", "minerva_math500"),
        ("math500", "minerva_math500"),
        ("MATH-500", "minerva_math500"),
        ("AIME24", "aime24"),
        ("AIME-2025", "aime25"),
        ("GPQA-Diamond", "gpqa_diamond"),
        ("gsm8k", "gsm8k"),
        ("MATH", "MATH"),
        # Users' own files keep their names, even those that are aliases in capitals.
        ("AIME-2026", "aime26"),
        ("aime_x", "aime_x"),
        ("hmmt_feb26", "hmmt_feb26"),
        ("aime_2024", "aime_2024"),
        ("AIME_X", "AIME_X"),
    ],
)
def test_a_name_means_one_benchmark(name: str, canonical: str) -> None:
    assert registry.canonical_name(name) == canonical


def test_a_file_of_ones_own_is_read_as_aime() -> None:
    own, aime = registry.get("aime_x"), registry.get("aime24")
    assert own is not None
    assert aime is not None
    assert (own.name, own.files, own.question_count) == ("aime_x", ("aime_x.jsonl",), None)
    assert (own.extract_answer, own.prompt) == (aime.extract_answer, aime.prompt)


def test_contests_of_ones_own_have_answers_of_any_form(tmp_path: Path) -> None:
    own = registry.get("hmmt_feb26")
    assert own is not None and not question_file.is_ours("hmmt_feb26", [tmp_path])
    row = {"id": "1", "problem": "What is one half of 3?", "answer": "\\frac{3}{2}"}
    (tmp_path / "hmmt_feb26.jsonl").write_text(json.dumps(row) + "\n")
    assert question_file.is_ours("hmmt_feb26", [tmp_path])
    (question,) = question_file.read(own, tmp_path / "hmmt_feb26.jsonl").questions
    assert (question.answer, own.grader, own.main_metric(32)) == (
        "\\frac{3}{2}",
        "math_verify",
        "avg_at_32",
    )
    assert "boxed" in own.ask(question)


def test_other_names_are_not_ours() -> None:
    assert registry.get("gsm8k") is None


def test_the_default_benchmarks_come_first() -> None:
    names = [benchmark.name for benchmark in registry.all_benchmarks()]
    assert tuple(names[: len(DEFAULT)]) == DEFAULT
    assert len(set(names)) == len(names) > len(DEFAULT)


def test_no_name_means_two_benchmarks() -> None:
    every = registry.all_benchmarks()
    names = [name for each in every for name in {each.name, *each.aliases}]
    assert len(set(names)) == len(names)
    assert all(name == name.casefold() for name in names)


def test_no_alias_hides_a_task_of_lm_eval() -> None:
    tasks = lm_eval_names()
    assert tasks is not None
    aliases = {alias for each in registry.all_benchmarks() for alias in each.aliases}
    assert not {name for name in tasks if name.casefold() in aliases}


def test_each_file_name_belongs_to_one_benchmark() -> None:
    files = [name for each in registry.all_benchmarks() for name in each.files]
    assert len(set(files)) == len(files)


def test_samples_per_question() -> None:
    counts = {each.name: each.samples_per_question(32) for each in registry.all_benchmarks()}
    known = {"minerva_math500": 1, "aime24": 32, "aime25": 32, "gpqa_diamond": 10}
    assert counts == counts | known


def test_a_spec_is_read_without_loading_the_benchmarks() -> None:
    code = (
        "import sys; from jobspec.spec import parsing\n"
        'parsing.decode(b\'{"name": "a", "model": {"name": "m"}, "train": null}\')\n'
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert "jobspec.benchmarks" in loaded
    assert not [name for name in loaded if name.startswith("jobspec.benchmarks.")]
