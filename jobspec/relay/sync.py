"""One run: counted, opened, fed, counted again, closed.

The server's own count of lines is the only thing believed. What was handed to the client may be
lost with it, and the client says "sent" where nothing was; so a line counts as arrived when the
server counts it, and whoever opens a run begins at that count, once it has stood still.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from jobspec.relay.client import ROWS_PATIENCE_S, Link, Refused
from jobspec.relay.cursor import Sent
from jobspec.relay.wandb_run import DIGEST, Row, Run

CHUNK = 500  # rows a request
AXES = {
    "train": [("train/step", "train/*")],
    "eval": [("epoch", "bench/*")],
}
_RETRY_MOST_S = 300.0
_TRIES = 4  # after which a relay that does not watch gives up on a run


class Phase(Enum):
    CLOSED = "closed"  # nobody has it open
    OPEN = "open"  # a client of ours has it
    CLOSING = "closing"  # told all; the server has yet to say so


@dataclass(frozen=True)
class Timing:
    """Seconds. `grace_s`: how long a count must stand still before it is believed after a relay
    that may have been killed; `stall_s`: without progress for so long, a client is killed."""

    grace_s: float = 15.0
    stall_s: float = 180.0
    watch: bool = False


@dataclass
class Feed:
    """A run on its way. `save` publishes what was assigned; then only may it be sent."""

    run: Run
    sent: Sent
    save: Callable[[Run, Sent], None]
    timing: Timing
    phase: Phase = Phase.CLOSED
    link: Link | None = None
    handed: int = 0  # lines the client was given
    problem: str | None = None
    _count: int | None = None
    _tail: dict[str, Any] | None = None
    _digest: str | None = None
    _moved: float = field(default_factory=time.monotonic)
    _counted: float = float("-inf")
    _fitting: list[Row] | None = None
    _tries: int = 0
    _retry_at: float = float("-inf")

    @property
    def id(self) -> str:
        return self.run.id(self.sent.generation)

    @property
    def wanted(self) -> int:
        """How many lines the run should have by now."""
        return max(self.sent.assigned, self.run.sendable)

    @property
    def is_done(self) -> bool:
        """Whether the server has all there is to send by now, and nobody has the run open."""
        if self.phase is not Phase.CLOSED or self._is_short or not self.sent.clean:
            return False
        if not self._fits():
            return False
        goes_on = self.run.end is None and self.timing.watch
        return goes_on or self.sent.told == self.run.digest()

    @property
    def _is_short(self) -> bool:
        return self.sent.confirmed < self.wanted or bool(self.sent.superseded)

    @property
    def needs_count(self) -> bool:
        """Whether the server is to be asked how many lines it has."""
        if self.phase is Phase.OPEN:
            return self.handed > (self._count or 0)
        return self.phase is Phase.CLOSING or not (self.is_done or self.gave_up)

    @property
    def gave_up(self) -> bool:
        return self.sent.gone or (self._tries >= _TRIES and not self.timing.watch)

    def counted(self, found: dict[str, Any] | None) -> None:
        """Take in what the server says of this run; None: it has no such run."""
        count = 0 if found is None else int(found["count"])
        if count != self._count:
            self._moved = time.monotonic()
        self._counted = time.monotonic()
        self._count = count
        self._tail = None if found is None else found["tail"]
        self._digest = None if found is None else found["digest"]
        if self.phase is not Phase.CLOSED and count > self.sent.confirmed:
            self.sent = self.sent.changed(confirmed=min(count, self.sent.assigned))
            self._tries = 0

    def step(self, link_of: Callable[[], Link]) -> None:
        """Do what can be done now. `link_of` gives a client for a run that is to be opened."""
        try:
            if self.phase is Phase.CLOSING:
                self._settle()
            elif self.phase is Phase.OPEN:
                self._feed()
            elif not (self.is_done or self.gave_up) and time.monotonic() >= self._retry_at:
                self._begin(link_of)
        except Refused as error:
            self.refused(error)

    def leave(self) -> None:
        """Forget a client that is gone: what it was given counts once the server has it."""
        self.phase, self.link, self.handed = Phase.CLOSED, None, 0
        self._moved = time.monotonic()

    @property
    def is_urgent(self) -> bool:
        """Whether its next step waits for the server alone, not for new rows."""
        waits = self.phase is Phase.CLOSED and not (self.is_done or self.gave_up)
        return waits or self.phase is Phase.CLOSING

    @property
    def is_stalled(self) -> bool:
        """Whether an open run has waited too long for lines to arrive."""
        behind = self.phase is Phase.OPEN and self.handed > (self._count or 0)
        return behind and time.monotonic() - self._moved > self.timing.stall_s

    def restart(self) -> None:
        """Begin a new run with what `run.rows` are now; the old one is marked superseded."""
        self._publish(self.sent.anew())
        self._count, self._tail, self._digest, self._tries = None, None, None, 0
        self.leave()

    # Closed

    def _begin(self, link_of: Callable[[], Link]) -> None:
        if self._count is None or self._counted < self._retry_at:
            return
        if self._count < self.sent.confirmed:
            if self._stands_still(2.0):
                self._is_gone("has fewer rows than it had: it was deleted or cut on the server")
            return
        if not self._is_believable():
            return
        if self._count > self.sent.assigned and not self._adopt():
            self.restart()
            return
        if not self._fits():
            self.restart()
            return
        self._open(link_of())

    def _fits(self) -> bool:
        """Whether the rows begin with those assigned; a list once looked at only grows."""
        if self._fitting is not self.run.rows:
            self._fitting = self.run.rows if self.sent.fits(self.run.rows) else None
        return self._fitting is not None

    def _is_believable(self) -> bool:
        """Whether the count is that of all that will come from whoever had the run before."""
        tail = -1 if self._tail is None else int(self._tail.get("_step", -1))
        if self._count != tail + 1:
            return False
        return (self.sent.clean and self._count == self.sent.confirmed) or self._stands_still(1.0)

    def _stands_still(self, graces: float) -> bool:
        return self._counted - self._moved >= graces * self.timing.grace_s

    def _adopt(self) -> bool:
        """Whether the server's lines are the first of ours, though the cursor was lost."""
        count, tail = self._count or 0, self._tail or {}
        if self.sent.assigned or not 0 < count <= len(self.run.rows):
            return False
        if self.run.rows[count - 1].identity != (tail.get("attempt"), tail.get("seq")):
            return False
        self.sent = self.sent.assign(self.run.rows[:count])
        return True

    def _open(self, link: Link) -> None:
        self._assign(clean=False)
        for generation in self.sent.superseded:
            self._mark_superseded(link, generation)
        if self.sent.superseded:
            self._assign(superseded=())
        ends = self.timing.watch or self.run.end is not None
        opened = self._open_run(link, self.id, ends=ends)
        self.link, self.phase, self.handed = link, Phase.OPEN, self._count or 0
        if opened != self._count:  # somebody's lines came meanwhile: send nothing
            link.ask("close", id=self.id, summary={}, exit_code=0, preempted=False)
            self.leave()
            self._later(f"the server counted {self._count} rows, then {opened}")
            return
        self.problem = None
        self._feed()

    def _open_run(self, link: Link, id: str, *, ends: bool, **other: str) -> int:
        facts, axes = self.run.facts() | other, AXES[self.run.kind]
        config = self.run.config
        answer = link.ask("open", id=id, facts=facts, config=config, axes=axes, ends=ends)
        return int(answer["starting_step"])

    def _mark_superseded(self, link: Link, generation: int) -> None:
        id, name = self.run.id(generation), f"{self.run.name} (superseded {generation})"
        self._open_run(link, id, ends=True, name=name, job_type="superseded")
        told = {"relay/superseded_by": self.id}
        link.ask("close", id=id, summary=told, exit_code=1, preempted=True)

    # Open

    def _feed(self) -> None:
        assert self.link is not None
        if not self._fits():
            self._close("preempted")
            self.restart()
            return
        if self.run.sendable > self.sent.assigned:
            self._assign()
        while self.handed < self.sent.assigned:
            rows = self.run.rows[self.handed : min(self.handed + CHUNK, self.sent.assigned)]
            values = [row.values for row in rows]
            given = {"id": self.id, "first": self.handed, "rows": values}
            self.link.ask("rows", patience_s=ROWS_PATIENCE_S, **given)
            self.handed += len(rows)
            self._moved = time.monotonic()
        if self.run.end is not None or not self.timing.watch:
            self._close(self.run.end)

    def _assign(self, **fields: Any) -> None:
        """Publish which row is which line. Nothing may be sent before this returns."""
        grown = self.sent.assign(self.run.rows[: self.run.sendable])
        self._publish(grown.changed(**fields))

    def _publish(self, sent: Sent) -> None:
        self.save(self.run, sent)  # where this fails nothing has changed
        self.sent = sent

    def _close(self, end: str | None) -> None:
        assert self.link is not None
        summary = self.run.summary | {DIGEST: self.run.digest()}
        failed = end in ("failed", "preempted")
        preempted = end == "preempted"
        id = self.id
        self.phase = Phase.CLOSING
        self.link.ask("close", id=id, summary=summary, exit_code=int(failed), preempted=preempted)
        self.link, self._moved = None, time.monotonic()

    # Closing

    def _settle(self) -> None:
        """Done once the server has every line and the summary; else begin again."""
        if self._counted < self._moved:
            return
        if self._count == self.sent.assigned and self._digest == self.run.digest():
            told = {"told": self.run.digest(), "confirmed": self._count or 0}
            self._publish(self.sent.changed(clean=True, **told))
            self.leave()
            self._tries = 0
        elif self._digest != self.run.digest() and self._count == self.sent.assigned:
            if self._stands_still(1.0):
                self.leave()
                self._later("the summary did not arrive")
        elif self._stands_still(1.0):
            self.leave()
            self._later(f"{self._count} of {self.sent.assigned} rows arrived")

    # When it goes wrong

    def refused(self, error: Refused) -> None:
        """Take in that the client or the server said no, in this run's matter."""
        self.leave()
        if error.deleted:
            self._is_gone("was deleted on the server")
        else:
            self._later(str(error))
            if error.is_final:
                self._tries = max(self._tries, _TRIES)

    def _later(self, problem: str) -> None:
        self.problem = f"{self.id}: {problem}"
        pause = min(self.timing.grace_s / 2 * 2**self._tries, _RETRY_MOST_S)
        self._tries += 1
        self._retry_at = time.monotonic() + pause

    def _is_gone(self, how: str) -> None:
        self.problem = f"{self.id}: {how} (`--resend` sends it again, under a new id)"
        self._publish(self.sent.changed(gone=True, clean=True))
