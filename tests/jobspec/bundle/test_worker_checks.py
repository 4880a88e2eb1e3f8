"""Loss masks and grades are derived again by the worker's programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jobspec import worker_command
from jobspec.bundle import read_bundle, worker_checks
from jobspec.bundle.findings import BundleFinding
from jobspec.storage.layout import BundlePaths
from tests.support.bundles import BENCHMARK, edit, unpack
from tests.support.commands import run_checked


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and the rows that the demo makes, the same each time."""
    place = tmp_path_factory.mktemp("demo")
    run_checked([sys.executable, "-m", "worker.demo.tiny_model", place])
    return place


@pytest.fixture
def bundle(tmp_path: Path) -> BundlePaths:
    return unpack(tmp_path)


def masks(bundle: BundlePaths, data: list[Path], model: Path | None) -> BundleFinding:
    with read_bundle.opened(bundle.dir) as found:
        (finding,) = worker_checks.check_masks(found, data, model)
    return finding


def grades(bundle: BundlePaths) -> BundleFinding:
    with read_bundle.opened(bundle.dir) as found:
        (finding,) = worker_checks.check_grades(found)
    return finding


def test_tokens_and_masks_are_those_of_the_run(bundle: BundlePaths, demo: Path) -> None:
    found = masks(bundle, [demo / "train.jsonl"], demo / "model")
    assert found.outcome == "ok"
    assert "156 rows tokenized again: 28,596 tokens, 6,600 with a loss" in found.detail
    assert "each token and label as in the run" in found.detail


def test_other_masks_are_named(bundle: BundlePaths, demo: Path) -> None:
    file = "attempts/1/prepare.json"
    edit(bundle, file, lambda value: value.update(trained_tokens=7000))
    found = masks(bundle, [demo / "train.jsonl"], demo / "model")
    assert (found.outcome, found.file) == ("differs", file)
    assert found.detail == "`trained_tokens` is stated as 7000; the rows give 6600"


def test_what_is_missing_is_said(
    bundle: BundlePaths, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    assert "the tokenizer is not included" in masks(bundle, [], None).detail
    assert "`train.jsonl` is not included" in masks(bundle, [other], demo / "model").detail
    monkeypatch.setenv(worker_command.WORKER_COMMAND, f"{sys.executable} -S")
    found = masks(bundle, [demo / "train.jsonl"], demo / "model")
    assert found.outcome == "unknown" and "is missing" in found.detail
    assert grades(bundle).outcome == "unknown"


def test_the_samples_are_graded_again(bundle: BundlePaths) -> None:
    found = grades(bundle)
    assert found.outcome == "ok"
    assert "104 samples read and graded again, with the same result" in found.detail


def test_a_sample_that_was_graded_otherwise_is_named(bundle: BundlePaths) -> None:
    def better(rows: list[dict[str, list[dict[str, object]]]]) -> None:
        rows[0]["samples"][0].update(right=True, answer="1")

    edit(bundle, f"{BENCHMARK}/scores.jsonl", better)
    found = grades(bundle)
    assert found.outcome == "differs" and "sample `A/0` is judged differently" in found.detail


def test_generated_programs_of_a_stranger_are_not_run(bundle: BundlePaths, tmp_path: Path) -> None:
    path = bundle.dir / BENCHMARK / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        touch = f"open({str(tmp_path / 'ran')!r}, 'w')"
        row["reading"] = {"reader": "code", "setup": touch, "tests": touch}
    edit(bundle, f"{BENCHMARK}/questions.jsonl", lambda value: value.__setitem__(slice(None), rows))
    found = grades(bundle)
    assert found.outcome == "unknown"
    assert "its grading would run what the bundle holds" in found.detail
    assert not (tmp_path / "ran").exists()
