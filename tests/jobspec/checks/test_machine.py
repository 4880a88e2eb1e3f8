"""What `validate` and `enqueue` say about the machine's own GPUs."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
import pytest

from jobspec import worker_command
from jobspec.checks.machine import check_machine
from jobspec.records.answers import MachineAnswer, MachineFact

GAPS = MachineAnswer(
    facts=(
        MachineFact(subject="GPU", severity="ok", message="1 × H100"),
        MachineFact(subject="kernels", severity="warn", message="no Liger", command="pip a"),
        MachineFact(subject="driver", severity="bad", message="it is too old", command="pip b"),
    )
)


def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> Path:
    """Let the worker's Python print this; returns a driver's file."""
    (tmp_path / "answer").write_text(text)
    monkeypatch.setenv(
        worker_command.WORKER_COMMAND, f"sh -c 'cat {shlex.quote(str(tmp_path))}/answer' --"
    )
    (tmp_path / "version").touch()
    return tmp_path / "version"


def test_only_what_keeps_workers_from_running_jobs_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = answer(monkeypatch, tmp_path, msgspec.json.encode(GAPS).decode())
    assert list(check_machine(driver)) == ["on this machine it is too old (pip b)"]


def test_a_machine_without_a_driver_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, tmp_path, "not JSON")
    assert list(check_machine(tmp_path / "none")) == []


def test_a_missing_environment_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version").touch()
    monkeypatch.setenv(worker_command.WORKER_COMMAND, str(tmp_path / "nothing"))
    (warning,) = check_machine(tmp_path / "version")
    assert "can't be run" in warning
