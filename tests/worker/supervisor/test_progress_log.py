"""What a worker's log says while an attempt runs, and after a stop."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobspec.records import base as records
from jobspec.records.attempt import Progress
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths
from worker.supervisor.progress_log import EVERY_S, ProgressLog, what_was_saved


def test_a_line_a_minute_while_there_is_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    attempt = RootPaths(tmp_path).job("job-0123456789").attempt(1)
    attempt.dir.mkdir(parents=True)
    said: list[str] = []
    log = ProgressLog(attempt, "job-0123456789", said.append)
    for second in range(300):
        done = min(second, 150)
        report = Progress(phase="train", done=done, total=400, unit="steps", metrics={"loss": 2.5})
        fs.replace(attempt.progress, records.encode(report))
        log.look()
        now += 1.0
    assert EVERY_S == 60.0
    assert said == [
        "job-0123456789 train: 60 of 400 steps, loss 2.5",
        "job-0123456789 train: 120 of 400 steps, loss 2.5",
        "job-0123456789 train: 150 of 400 steps, loss 2.5",
    ]


def test_an_attempt_without_a_checkpoint_keeps_what_it_has_finished(tmp_path: Path) -> None:
    root = RootPaths(tmp_path)
    root.job("job-0123456789").attempt(1).dir.mkdir(parents=True)
    text = what_was_saved(root, "job-0123456789", 1)
    assert text.startswith("job-0123456789 is pending again and keeps what it has finished")
    assert text.endswith(f"start a worker with --root {tmp_path}")
