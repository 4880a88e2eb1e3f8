"""Send one run to its destination: count, open, send, count again, close.

Only the server's own count of lines is trusted. Rows given to the client may be lost with it, and
the client reports "sent" for rows that were not. So a line has arrived when the server counts it,
and a relay that opens a run continues at that count, once the count has stopped growing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from jobspec.relay.client import ROWS_PATIENCE_S, ClientProcess, Refused
from jobspec.relay.cursor import SentRows
from jobspec.relay.tracked_run import DIGEST, HistoryRow, RunKind, TrackedRun
from jobspec.spec.tracking_names import LONGEST

_TOO_LARGE = "413"
_IN_USE = "is in use"
CHUNK = 500  # rows per request
AXES = {
    RunKind.TRAIN: [("train/step", "train/*")],
    RunKind.EVAL: [("epoch", "bench/*")],
}
_RETRY_MOST_S = 60.0
_STALL_MOST_S = 60.0  # of an open run: rows arrive within half of it
_LOOK_EVERY_S = 5.0  # for an upload that has ended
_SPLIT = 4  # parts of a request that was too large
_TRIES = 4  # then a relay without --watch gives up on a run


class SyncState(Enum):
    """Where a run is between closed and closed again."""

    CLOSED = "closed"  # no client has it open
    OPEN = "open"  # a client of this relay has it open
    CLOSING = "closing"  # everything was sent; the server has not confirmed it yet


@dataclass(frozen=True)
class SyncTiming:
    """Waiting times.

    Attributes:
        grace_s: how long the server's count must stay the same before it is trusted, if an earlier
            relay may have been killed.
        stall_s: how long a client may make no progress before it is killed.
        watch: the relay goes on until it is stopped.
    """

    grace_s: float = 15.0
    stall_s: float = 180.0
    watch: bool = False


@dataclass
class RunSync:
    """A run and how far it was sent. Rows may be sent only once `save` has published them."""

    run: TrackedRun
    sent: SentRows
    save: Callable[[TrackedRun, SentRows], None]
    timing: SyncTiming
    state: SyncState = SyncState.CLOSED
    client: ClientProcess | None = None
    handed: int = 0  # lines given to the client
    problem: str | None = None
    _count: int | None = None
    _tail: dict[str, Any] | None = None
    _digest: str | None = None
    _moved: float = field(default_factory=time.monotonic)
    _counted: float = float("-inf")
    _fitting: list[HistoryRow] | None = None
    _tries: int = 0
    _retry_at: float = float("-inf")
    _exists: bool = False
    _asked: ClientProcess | None = None  # to open the run
    _window: int | None = None  # lines that may be on their way at once; None for all
    _look_at: float = float("-inf")
    _upload_error: str | None = None

    @property
    def id(self) -> str:
        return self.run.id(self.sent.generation)

    @property
    def wanted(self) -> int:
        """How many lines the run should have by now."""
        return max(self.sent.assigned, self.run.sendable)

    @property
    def is_done(self) -> bool:
        """Whether the server has everything sendable, and no client has the run open."""
        if self.state is not SyncState.CLOSED or self._is_short or not self.sent.clean:
            return False
        if not self._fits():
            return False
        goes_on = self.run.end is None and self.timing.watch
        return goes_on or self.sent.digest == self.run.digest()

    @property
    def _is_short(self) -> bool:
        return self.sent.confirmed < self.wanted or bool(self.sent.superseded)

    @property
    def needs_count(self) -> bool:
        """Whether to ask the server how many lines it has."""
        if self.state is SyncState.OPEN:
            return self.handed > (self._count or 0) and time.monotonic() >= self._retry_at
        waits = self.is_done or self.gave_up or time.monotonic() < self._retry_at
        closing = self.state is SyncState.CLOSING and time.monotonic() >= self._retry_at
        return closing or not waits

    @property
    def gave_up(self) -> bool:
        return self.sent.gone or (self._tries >= _TRIES and not self.timing.watch)

    def counted(self, found: dict[str, Any] | None) -> None:
        """Note the server's answer about this run; None if it has no such run."""
        count = 0 if found is None else int(found["count"])
        if count != self._count:
            self._moved = time.monotonic()
        self._counted = time.monotonic()
        self._count, self._exists = count, found is not None
        if self.state is SyncState.OPEN:
            self.problem, self._tries = None, 0
        self._tail = None if found is None else found["tail"]
        self._digest = None if found is None else found["digest"]
        if self.state is not SyncState.CLOSED and count > self.sent.confirmed:
            self.sent = self.sent.changed(confirmed=min(count, self.sent.assigned))
            self._tries = 0

    def step(self, client_for: Callable[[], ClientProcess]) -> None:
        """Do what can be done now. `client_for` returns a client with room for one more run."""
        try:
            if self.state is SyncState.CLOSING:
                self._settle()
            elif self.state is SyncState.OPEN:
                self._send_rows()
            elif not (self.is_done or self.gave_up) and time.monotonic() >= self._retry_at:
                self._begin(client_for)
        except Refused as error:
            self.refused(error)

    def leave(self) -> None:
        """Forget a client that is gone: its lines count only once the server has them."""
        self.state, self.client, self.handed = SyncState.CLOSED, None, 0
        self._moved = time.monotonic()

    @property
    def is_urgent(self) -> bool:
        """Whether the next step waits only for the server, not for new rows."""
        waits = self.state is SyncState.CLOSED and not (self.is_done or self.gave_up)
        split = self.state is SyncState.OPEN and self.handed < self.sent.assigned
        return waits or split or self.state is SyncState.CLOSING

    @property
    def is_stalled(self) -> bool:
        """Whether lines of an open run have not arrived for too long."""
        behind = self.state is SyncState.OPEN and self.handed > (self._count or 0)
        return behind and time.monotonic() - self._moved > min(self.timing.stall_s, _STALL_MOST_S)

    def restart(self) -> None:
        """Start a new run with the present rows; the old run is marked as superseded."""
        self._publish(self.sent.restarted())
        self._count, self._tail, self._digest, self._tries = None, None, None, 0
        self.leave()

    # Closed

    def _begin(self, client_for: Callable[[], ClientProcess]) -> None:
        if self._count is None or self._counted < self._retry_at:
            return
        if self._count < self.sent.confirmed:
            if self._stands_still(2.0):
                self._is_gone("has fewer rows than before: it was deleted or cut on the server")
            return
        if not self._is_final_count():
            return
        if self._count > self.sent.assigned and not self._adopt():
            self.restart()
            return
        if not self._fits():
            self.restart()
            return
        self._open(client_for())

    def _fits(self) -> bool:
        """Whether the rows begin with the assigned ones; a list that was checked only grows."""
        if self._fitting is not self.run.rows:
            self._fitting = self.run.rows if self.sent.fits(self.run.rows) else None
        return self._fitting is not None

    def _is_final_count(self) -> bool:
        """Whether no more lines will come from a client that had the run open before."""
        tail = -1 if self._tail is None else int(self._tail.get("_step", -1))
        if self._count != tail + 1:
            return False
        return (self.sent.clean and self._count == self.sent.confirmed) or self._stands_still(1.0)

    def _stands_still(self, graces: float) -> bool:
        return self._counted - self._moved >= graces * self.timing.grace_s

    def _adopt(self) -> bool:
        """Whether the server's lines are the first of the rows, though the cursor was lost."""
        count, tail = self._count or 0, self._tail or {}
        if self.sent.assigned or not 0 < count <= len(self.run.rows):
            return False
        if self.run.rows[count - 1].identity != (tail.get("attempt"), tail.get("seq")):
            return False
        self.sent = self.sent.assign(self.run.rows[:count])
        return True

    def _open(self, client: ClientProcess) -> None:
        self._assign(clean=False)
        for generation in self.sent.superseded:
            self._supersede(client, generation)
        if self.sent.superseded:
            self._assign(superseded=())
        ends = self.timing.watch or self.run.end is not None
        opened = self._open_run(client, self.id, ends=ends)
        self.client, self.state, self.handed = client, SyncState.OPEN, self._count or 0
        self._upload_error, self._look_at = None, time.monotonic() + _LOOK_EVERY_S
        if opened != self._count:  # other lines arrived meanwhile: send nothing
            client.ask("close", id=self.id, summary={}, exit_code=0, preempted=False)
            self.leave()
            self._later(f"the server counted {self._count} rows, then {opened}")
            return
        self.problem = None
        self._send_rows()

    def _open_run(self, client: ClientProcess, id: str, *, ends: bool) -> int:
        self._asked = client
        facts, axes = self.run.attributes(), AXES[self.run.kind]
        if self._exists:
            del facts["name"]  # a user may have renamed the run
        config = self.run.config
        answer = client.ask("open", id=id, facts=facts, config=config, axes=axes, ends=ends)
        return int(answer["starting_step"])

    def _supersede(self, client: ClientProcess, generation: int) -> None:
        self._asked = client
        mark = f" (superseded {generation})"
        name = f"{self.run.name[: LONGEST - len(mark)]}{mark}"
        facts = self.run.attributes() | {"name": name, "job_type": "superseded"}
        config, axes = self.run.config, AXES[self.run.kind]
        id = self.run.id(generation)
        client.ask("supersede", id=id, by=self.id, facts=facts, config=config, axes=axes)

    # Open

    def _send_rows(self) -> None:
        assert self.client is not None
        if not self._fits():
            self._close("preempted")
            self.restart()
            return
        if self.run.sendable > self.sent.assigned:
            self._assign()
        if self._upload_has_ended():
            self._close(self.run.end)
            return
        beyond = self._beyond()
        while self.handed < beyond:
            rows = self.run.rows[self.handed : min(self.handed + CHUNK, beyond)]
            values = [row.values for row in rows]
            given = {"id": self.id, "first": self.handed, "rows": values}
            self.client.ask("rows", patience_s=ROWS_PATIENCE_S, **given)
            self.handed += len(rows)
            self._moved = time.monotonic()
        all_given = self.handed == self.sent.assigned
        if all_given and (self.run.end is not None or not self.timing.watch):
            self._close(self.run.end)

    def _beyond(self) -> int:
        """The first line that may not be given to the client yet."""
        if self._window is None:
            return self.sent.assigned
        return min(self.sent.assigned, (self._count or 0) + self._window)

    def _upload_has_ended(self) -> bool:
        """Whether the client has stopped sending this run's rows, which it does not tell."""
        assert self.client is not None
        now = time.monotonic()
        if self.handed <= (self._count or 0) or now < self._look_at:
            return False
        self._look_at = now + _LOOK_EVERY_S
        return self.client.ask("upload_error", id=self.id)["error"] is not None

    def _assign(self, **fields: Any) -> None:
        """Publish which row is which line. No row may be sent before this returns."""
        grown = self.sent.assign(self.run.rows[: self.run.sendable])
        self._publish(grown.changed(**fields))

    def _publish(self, sent: SentRows) -> None:
        self.save(self.run, sent)  # if this fails, nothing has changed
        self.sent = sent

    def _close(self, end: str | None) -> None:
        assert self.client is not None
        summary = self.run.summary | {DIGEST: self.run.digest()}
        failed = end in ("failed", "preempted")
        preempted = end == "preempted"
        id = self.id
        self.state = SyncState.CLOSING
        answer = self.client.ask(
            "close", id=id, summary=summary, exit_code=int(failed), preempted=preempted
        )
        self._upload_error = answer["error"]
        self.client, self._moved = None, time.monotonic()

    # Closing

    def _settle(self) -> None:
        """Finish once the server has every line and the summary; otherwise start again."""
        if self._counted < self._moved:
            return
        if self._count == self.sent.assigned and self._digest == self.run.digest():
            digest, confirmed = self.run.digest(), self._count or 0
            self._publish(self.sent.changed(clean=True, digest=digest, confirmed=confirmed))
            self.leave()
            self._tries = 0
        elif self._digest != self.run.digest() and self._count == self.sent.assigned:
            if self._stands_still(1.0):
                self.leave()
                self._later("the summary did not arrive")
        elif self._stands_still(1.0):
            self._split()
            self.leave()
            why = f" ({self._upload_error})" if self._upload_error is not None else ""
            self._later(f"{self._count} of {self.sent.assigned} rows arrived{why}")

    def _split(self) -> None:
        """Give the client fewer lines at a time if the server found a request too large."""
        if self._upload_error is None or _TOO_LARGE not in self._upload_error:
            return
        outstanding = self.handed - (self._count or 0)
        if outstanding > 1:
            self._window = max(1, outstanding // _SPLIT)
            self._tries = 0

    # Problems

    def refused(self, error: Refused) -> None:
        """Note that the client or the server refused a request for this run."""
        if _IN_USE in error.text and self._asked is not None:
            self._asked.kill()  # it still has the run open, and can't be told to forget it
        self.leave()
        if error.deleted:
            self._is_gone("was deleted on the server")
        else:
            if error.is_final and not self.timing.watch:
                self._tries = _TRIES
            self._later(str(error))

    def uncounted(self, error: Refused) -> None:
        """Note that the server does not say how many lines it has; an open run stays open."""
        if self.state is not SyncState.CLOSED and self.timing.watch and not error.deleted:
            self._later(str(error))
        else:
            self.refused(error)

    def _later(self, problem: str) -> None:
        pause = min(self.timing.grace_s / 2 * 2**self._tries, _RETRY_MOST_S)
        self._tries += 1
        self._retry_at = time.monotonic() + pause
        again = "" if self.gave_up else f"; trying again in {pause:.0f} s"
        self.problem = f"{self.id}: {problem}{again}"

    def _is_gone(self, how: str) -> None:
        self.problem = f"{self.id}: {how} (`--resend` sends it again, under a new id)"
        self._publish(self.sent.changed(gone=True, clean=True))
