"""What a phase says of its progress: in progress.json and in its log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobspec.records import base as records
from jobspec.records.attempt import Progress
from jobspec.records.phases import TRAIN
from jobspec.storage.layout import RootPaths
from worker.phase import Phase


def test_the_log_has_a_line_every_ten_seconds_and_one_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    attempt = RootPaths(tmp_path).job("job-0123456789").attempt(1)
    attempt.dir.mkdir(parents=True)
    phase = Phase(TRAIN, attempt.dir)
    for step in range(1, 1001):
        phase.progress(step, 1000, "steps", loss=2 - step / 1000, tokens_per_second=2431.4)
        now += 0.1
    phase.progress(1000, 1000, "steps", loss=1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 1 of 1,000 steps, loss 1.999, 2,431 tokens/s"
    assert lines[-1] == "train: 1,000 of 1,000 steps, loss 1, 2,431 tokens/s"
    assert len(lines) == 11
    assert records.read(attempt.progress, Progress) is not None
    assert Phase(TRAIN, attempt.dir, reports=False).reports is False
    assert capsys.readouterr().err == ""
