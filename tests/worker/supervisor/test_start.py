"""A worker that starts while its root can't be used."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker.__main__ as program
from jobspec.errors import DiskFull
from jobspec.queue.queue import Queue
from jobspec.records import exit_codes


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_it_waits_until_the_root_can_be_written(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [
        DiskFull("the filesystem is read-only", file=queue.paths.queue),
        DiskFull("the filesystem is read-only", file=queue.paths.queue),
        OSError(errno.ESTALE, "Stale file handle", str(queue.paths.format)),
    ]

    def opened(root: str) -> Queue:
        if errors:
            raise errors.pop(0)
        return queue

    slept: list[float] = []
    monkeypatch.setattr(program, "Queue", opened)
    monkeypatch.setattr(program.time, "sleep", slept.append)
    assert program.open_when_possible("any") is queue
    assert len(slept) == 3
    said = capsys.readouterr().err
    assert said.count("the filesystem is read-only") == 1 and "Stale file handle" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_while_it_waits_asks_for_a_requeue(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(root: str) -> Queue:
        raise DiskFull("no space left", file=root)

    monkeypatch.setattr(program, "Queue", full)
    monkeypatch.setattr(program.time, "sleep", lambda seconds: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        program.open_when_possible(str(tmp_path))
    assert ended.value.code == exit_codes.WORKER_REQUEUE
