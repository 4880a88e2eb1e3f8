"""Full and closed outputs, Ctrl-C, and paths that are not UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobspec.checks.check import CheckedSpec
from jobspec.cli import specs as commands
from jobspec.queue.queue import Queue
from tests.support.commands import environment
from tests.support.queues import queue_at
from tests.support.specs import score_spec


def run(*arguments: str | bytes, stdout: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobspec.cli", *arguments]
    return subprocess.run(
        command, env=environment(), stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )


def test_a_full_stdout_costs_one_line(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    done = run("status", "--root", str(queue.paths.root), stdout=full)
    os.close(full)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) <= 2 and "No space left" in done.stderr, done.stderr


def test_a_closed_stdout_costs_one_line_at_most(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    done = run("status", "--root", str(queue.paths.root), stdout=writer)
    os.close(writer)
    assert len(done.stderr.splitlines()) <= 1, done.stderr


def test_a_path_that_is_not_utf8_can_be_printed_as_json(tmp_path: Path) -> None:
    missing = os.fsencode(tmp_path) + b"/r\xf6\xf6t"
    done = run("status", "--json", "--root", missing, stdout=subprocess.PIPE)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (error,) = json.loads(done.stdout)["errors"]
    assert os.fsencode(error["file"]) == missing


def test_ctrl_c_in_enqueue_says_how_many_were_enqueued(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [CheckedSpec(file=Path(f"{n}.json"), spec=score_spec(f"s{n}")) for n in range(3)]
    real = queue.enqueue

    def enqueue(*given: Any, **options: Any) -> Any:
        if len(queue.jobs()) == 2:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(queue, "enqueue", enqueue)
    monkeypatch.setattr(commands, "create_queue", lambda: queue)
    with pytest.raises(KeyboardInterrupt):
        commands.enqueue_all(many, 50)
    assert "stopped: 2 of 3 specs are enqueued" in capsys.readouterr().err
