"""The live page's server: what it tells, how much it reads, and a browser that leaves."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Any

import msgspec
import pytest

from jobspec.dashboard.live import LiveRuns, Snapshot
from jobspec.dashboard.server import HOST, Server
from jobspec.queue.queue import Queue
from tests.support.queues import enqueue_and_claim, report_progress
from tests.support.specs import base_spec, tuned_spec


def test_a_browser_that_leaves_causes_no_traceback(
    queue: Queue, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, left = threading.Event(), threading.Event()

    def page(_: LiveRuns) -> str:
        asked.set()
        left.wait(10.0)
        return "x" * 50_000_000

    monkeypatch.setattr(LiveRuns, "page", page)
    server = Server(LiveRuns(queue, queue.jobs, 1.0))
    server.daemon_threads = False  # so that closing the server waits for the request
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with socket.create_connection((HOST, server.server_address[1])) as browser:
        browser.sendall(f"GET /{server.token}/ HTTP/1.1\r\n\r\n".encode())
        assert asked.wait(10.0)
        # Closed with a reset, as when a tab is closed.
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    left.set()
    server.shutdown()
    thread.join()
    server.server_close()
    assert capsys.readouterr().err == ""


def test_an_update_has_only_the_rows_that_changed(queue: Queue) -> None:
    waiting = queue.enqueue(base_spec())
    claim = enqueue_and_claim(queue, tuned_spec())
    live = LiveRuns(queue, queue.jobs, 0.0)
    known, told = live.update(None)
    assert len(_rows(told)) == 2
    assert live.update(known)[1] is None
    report_progress(claim, 30)
    changed = _next(live, known)
    assert [row["id"] for row in changed["runs"]] == [claim.job]
    assert changed["ids"] == [waiting.id, claim.job]


def _rows(told: bytes | None) -> list[Any]:
    return [] if told is None else msgspec.json.decode(told)["runs"]


def _next(live: LiveRuns, known: Snapshot) -> dict[str, Any]:
    """The next update that says anything. The server rests after each read of the files."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        known, told = live.update(known)
        if _rows(told):
            return msgspec.json.decode(told or b"")
    raise AssertionError("nothing was told")


def test_after_reading_it_rests_so_that_many_readers_cost_no_more(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = iter([0.0, 1.0, 1.0, 2.0])  # each read takes a second of the processor
    monkeypatch.setattr("time.thread_time", lambda: next(used))
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    live = LiveRuns(queue, queue.jobs, 0.0)
    first = live.snapshot()
    queue.enqueue(base_spec())
    for later in (1001.0, 1066.0):
        now[0] = later
        assert live.snapshot() is first
    now[0] = 1067.0  # one second in 67 is 1.5 %
    assert len(live.snapshot().runs) == 1


def test_details_are_read_for_the_runs_that_exist(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    live = LiveRuns(queue, queue.jobs, 0.0)
    assert live.details("none") is None and live.pairs(job.id, "none") is None
    found = live.details(job.id)
    assert found is not None and dict(msgspec.json.decode(found)["origin"])["job"] == job.id
    assert live.pairs(job.id, job.id) == b"[]"


def test_details_of_a_run_that_has_changed_are_never_old(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    live = LiveRuns(queue, queue.jobs, 0.0)
    known = live.update(None)[0]
    live.details(claim.job)
    claim.dir.log("train").write_text("a line\n")
    report_progress(claim, 30)
    _next(live, known)  # the server rests now
    found = live.details(claim.job)
    assert found is not None and msgspec.json.decode(found)["log"]["text"] == "a line"
