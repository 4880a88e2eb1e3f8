"""How long a run waits after it was refused; the server and the client are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from jobspec.relay import sync as sync_module
from jobspec.relay.client import ClientProcess, Refused
from jobspec.relay.cursor import SentRows
from jobspec.relay.sync import RunSync, SyncState, SyncTiming
from jobspec.relay.tracked_run import HistoryRow, RunKind, TrackedRun

ROWS = [HistoryRow(1, seq, {"train/loss": 1.0}) for seq in range(100)]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(sync_module.time, "monotonic", lambda: clock[0])
    return clock


class Client:
    """Takes every request; `error` is why the upload has ended."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: str | None = None
        self.given = 0

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        self.asked.append(op)
        self.given += len(request.get("rows", ()))
        return {"starting_step": 0, "error": self.error}


def step(sync: RunSync, client: Client) -> None:
    sync.step(lambda: cast("ClientProcess", client))


def new_sync(*, watch: bool = True, rows: list[HistoryRow] = ROWS) -> RunSync:
    run = TrackedRun(
        job="a-0123456789",
        kind=RunKind.TRAIN,
        name="n",
        group="g",
        project="p",
        entity=None,
        config={},
        rows=rows,
        sendable=len(rows),
        summary={},
        end=None,
    )
    return RunSync(run, SentRows(), lambda run, sent: None, SyncTiming(watch=watch))


def pauses(sync: RunSync, now: list[float], error: Refused) -> Iterator[float]:
    for _ in range(8):
        sync.refused(error)
        began = now[0]
        while not sync.needs_count:
            now[0] += 0.5
        yield now[0] - began


@pytest.mark.parametrize("message", ["401: invalid key", "403: permission denied", "503: busy"])
def test_pauses_grow_to_a_minute_and_say_how_long_they_are(now: list[float], message: str) -> None:
    sync = new_sync()
    waited = list(pauses(sync, now, Refused("CommError", message)))
    assert waited[0] < 10 and waited == sorted(waited) and waited[-1] == 60.0
    assert message in (sync.problem or "") and "trying again in 60 s" in (sync.problem or "")


def test_without_watch_a_refusal_that_will_not_change_is_given_up(now: list[float]) -> None:
    sync = new_sync(watch=False)
    sync.refused(Refused("UsageError", "Invalid project name"))
    assert sync.gave_up and "trying again" not in (sync.problem or "")


def opened(now: list[float], client: Client) -> RunSync:
    sync = new_sync()
    for _ in range(3):
        sync.counted(None)
        step(sync, client)
        now[0] += 16.0
    assert sync.state is SyncState.OPEN and client.given == 100
    return sync


def test_an_upload_that_has_ended_is_noticed_within_seconds(now: list[float]) -> None:
    client = Client()
    sync = opened(now, client)
    client.error = "W&B answered 403 Forbidden"
    now[0] += 6.0
    step(sync, client)
    assert sync.state is SyncState.CLOSING and client.asked[-1] == "close"


def test_a_client_whose_rows_do_not_arrive_is_stalled_after_a_minute(now: list[float]) -> None:
    sync = opened(now, Client())
    sync.counted({"count": 50, "tail": None, "digest": None})
    now[0] += 59.0
    assert not sync.is_stalled
    now[0] += 2.0
    assert sync.is_stalled


def test_after_413_ever_fewer_rows_are_on_their_way(now: list[float]) -> None:
    client = Client()
    sync = opened(now, client)
    given = [client.given]
    for _ in range(3):
        client.error, before = "W&B answered 413 Request Entity Too Large", client.given
        for _ in range(12):
            now[0] += 20.0
            sync.counted({"count": 0, "tail": {"_step": -1}, "digest": None})
            step(sync, client)
            if sync.state is SyncState.CLOSING:
                client.error = None
            if client.given > before:
                break
        given.append(client.given - before)
    assert given == [100, 25, 6, 1]
