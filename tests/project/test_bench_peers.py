"""benchmarks/: the queues that are compared do what they are timed for, and failures are told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import queues, survive
from benchmarks.common import figure, medians, table, turns
from benchmarks.peers import PEERS, SIZE, installed, number_of, payload
from jobspec.spec.identity import canonical
from tests.support.paths import fast_dir

OF_THIS_MACHINE = [name for name in PEERS if installed(name)]


@pytest.fixture
def place() -> Iterator[Path]:
    with fast_dir() as folder:
        yield folder


@pytest.mark.parametrize("name", OF_THIS_MACHINE)
def test_every_job_comes_once(name: str, place: Path) -> None:
    found = queues.rate(name, [place, place], jobs=20, processes=2)
    assert found["wrong"] == 0
    assert found["enqueue"] > 0 and found["claim + commit"] > 0


def test_our_jobs_are_as_long_as_others(place: Path) -> None:
    ours = PEERS["ours"](place)
    ours.enqueue(7)
    claimed = ours.claim()
    assert claimed is not None and claimed[0] == 7
    assert len(canonical(claimed[1].spec)) == SIZE
    ours.commit(claimed[1])
    assert ours.claim() is None
    assert claimed[1].dir.result.stat().st_size == pytest.approx(SIZE, rel=0.3)
    assert number_of(payload(7)) == 7


def test_a_killed_workers_job_is_kept_by_ours_and_lost_by_the_floor(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survive, "KILLS", 2)
    assert survive.workers_killed("ours", place / "ours").summary() == "all kept of 2"
    assert survive.workers_killed("floor", place / "floor").summary() == "2 lost of 2"


def test_a_process_that_fails_is_told_and_holds_nobody_up() -> None:
    def fails(start: object) -> None:
        raise OSError("no such luck")

    def waits(start: object) -> int:
        assert callable(start)
        start()
        return 1

    with pytest.raises(queues.ChildError, match="no such luck"):
        queues.together([fails, waits])
    assert queues.together([waits, waits]) == [1, 1]


def test_a_killed_process_is_told() -> None:
    def dies(start: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(queues.ChildError, match="exit code -9"):
        queues.together([dies])


def test_runs_are_made_in_turn_and_medians_counted() -> None:
    order: list[str] = []
    values = iter([1.0, 10.0, 3.0, 30.0, 2.0, 20.0])

    def run(name: str) -> dict[str, float]:
        order.append(name)
        return {"s": next(values)}

    found = turns({"a": lambda: run("a"), "b": lambda: run("b")}, runs=3)
    assert order == ["a", "b"] * 3
    assert found == {"a": {"s": 2.0}, "b": {"s": 20.0}}
    assert medians([{"s": 1.0}, {"s": 3.0}]) == {"s": 2.0}


def test_tables_align() -> None:
    assert table(["x", "long"], [["name", "1"]]) == "x     long\nname     1"
    assert [figure(value) for value in (0.314, 15.84, 1203.4)] == ["0.31", "15.8", "1,203"]
