"""What `benchmarks.resume` counts: rows that a resumed training repeats or skips; its losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from benchmarks import resume

CALM = [{"step": step, "rows": [10 * step, 10 * step + 1], "loss": 1.0 / step}
        for step in range(1, 16)]  # fmt: skip


def run(directory: Path, steps: list[dict[str, Any]], weight: float = 1.0) -> resume._Run:
    """A run that has ended, with these steps and one weight."""
    import safetensors.torch

    made = resume._Run(directory, directory, "trl")
    newest = made.output / "checkpoint-15"
    newest.mkdir(parents=True)
    (directory / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    torch.save({"state": {0: {"exp_avg": torch.tensor([weight])}}}, newest / "optimizer.pt")
    safetensors.torch.save_file({"w": torch.tensor([weight])}, made.output / "model.safetensors")
    return made


def found(tmp_path: Path, steps: list[dict[str, Any]], weight: float = 1.0) -> resume.Outcome:
    return resume._compare(
        run(tmp_path / "calm", CALM), run(tmp_path / "killed", steps, weight), ""
    )


def test_a_resume_that_trains_steps_again_is_equal(tmp_path: Path) -> None:
    again = [*CALM[:5], *CALM[3:]]  # killed in step 6, resumed from step 3
    outcome = found(tmp_path, again)
    assert outcome == resume.Outcome(0, 0, 0.0, "identical", "identical")


def test_rows_that_are_repeated_and_skipped_are_counted(tmp_path: Path) -> None:
    wrong = [dict(step) for step in CALM]
    wrong[6] = {**wrong[6], "rows": wrong[5]["rows"], "loss": wrong[6]["loss"] + 0.25}
    outcome = found(tmp_path, [*CALM[:8], *wrong[6:]], weight=1.5)
    assert (outcome.repeated, outcome.skipped) == (2, 2)
    assert abs(outcome.loss - 0.25) < 1e-12
    assert (outcome.optimizer, outcome.weights) == ("differ by 5.0e-01", "differ by 5.0e-01")


def test_steps_that_are_missing_are_no_equality(tmp_path: Path) -> None:
    outcome = found(tmp_path, CALM[:14])
    assert outcome.skipped == 2
    assert outcome.loss == float("inf")


def test_the_settings_are_arguments_of_transformers() -> None:
    known = set(TrainingArguments.__dataclass_fields__)
    assert resume._ARGUMENTS.keys() <= known


def test_a_tool_runs_in_its_own_environment(tmp_path: Path) -> None:
    """What the tool's Python is told, and where its weights are found."""
    python = tmp_path / "environments" / "axolotl" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" "$RANK" "$DO_NOT_TRACK" >&2\nexit 3\n')
    python.chmod(0o755)
    found = resume._environments(tmp_path / "environments")
    assert found == {"axolotl": str(python)}
    made = resume._Run(tmp_path / "run", tmp_path, "axolotl", found["axolotl"])
    assert made.start(None) == 3
    settings = made.directory / "settings.json"
    assert made.last_line() == f"-m benchmarks.resume_tools {settings}  1"
    assert json.loads(settings.read_text())["tool"] == "axolotl"
    kept = made.output / "checkpoint-15"
    kept.mkdir(parents=True)
    (kept / "model.safetensors").touch()
    assert made.final() == kept
    (made.output / "model.safetensors").touch()
    assert made.final() == made.output


def test_a_route_that_fails_leaves_the_others_their_rows(tmp_path: Path) -> None:
    row = resume._row(tmp_path, "axolotl", "false")
    assert row[0] == "axolotl" and row[1:4] == ["", "", ""]
