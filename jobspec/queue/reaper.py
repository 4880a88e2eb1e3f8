"""Taking back what dead workers hold. Dead is who was silent for a lease, as this reader saw it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from jobspec.errors import DiskFull
from jobspec.queue import heartbeat, links, retry_policy
from jobspec.queue.entries import Entry, following, in_state
from jobspec.records.attempt import ClaimRevoked
from jobspec.records.base import State, encode, utc_now
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

_FORGOTTEN_LEASES = 4.0
_DRAIN = ".drain"


class Reaper:
    """One reader's memory of everybody's beats, and the moves that follow from it.

    Args:
        root: the root.
        heartbeat_s: how often workers beat; two of them bound what one gap may count.
        clock: monotonic seconds.
    """

    def __init__(
        self, root: RootPaths, heartbeat_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._watch = heartbeat.Watch()
        self._draining: set[str] = set()
        self._claims: list[Entry] = []

    def reap(self, lease_s: float) -> list[str]:
        """Look once, and take back every claim that has been silent for `lease_s` by now.

        Returns:
            The jobs moved.

        Raises:
            OSError: the root doesn't answer; nothing was counted, nobody was judged.
        """
        claims = self._look(lease_s)
        dead = [entry for entry in claims if self._silence_of(entry) >= lease_s]
        holders = {entry.worker for entry in claims}
        for worker in self._watch.silent_workers(_FORGOTTEN_LEASES * lease_s) - holders:
            heartbeat.remove_files(self._root, worker)
        return self._take_back(dead)

    def reap_worker(self, worker: str) -> list[str]:
        """Take back all that `worker` holds: somebody knows that it is dead."""
        claims = in_state(self._root, State.RUNNING)
        return self._take_back([entry for entry in claims if entry.worker == worker])

    def silent_s(self, worker: str) -> float:
        """Seconds in which nothing at all of this worker moved."""
        return self._watch.silent_s(worker)

    def silent_holders(self, at_least_s: float) -> set[str]:
        """Workers whose claims had been silent for so long when `reap` last looked."""
        silent = [entry for entry in self._claims if self._silence_of(entry) >= at_least_s]
        return {entry.worker for entry in silent if entry.worker is not None}

    def saw_drain(self, worker: str) -> bool:
        """Whether this worker was asked to drain when `reap` last looked."""
        return worker in self._draining

    def _look(self, lease_s: float) -> list[Entry]:
        now = self._clock()
        claims = self._claims = in_state(self._root, State.RUNNING)
        names = fs.list_dir(self._root.workers)
        self._draining = {name.removesuffix(_DRAIN) for name in names if name.endswith(_DRAIN)}
        beats = heartbeat.beats_in(names)
        keys = {(entry.worker or "", entry.ticket.job) for entry in claims}
        alone = {(beat.worker, None) for beat in beats}
        # Two polls at most, and never so much that one gap alone could make a lease.
        cap_s = min(2 * self._heartbeat_s, lease_s / 2)
        self._watch.look(keys | alone, beats, now, cap_s)
        return claims

    def _silence_of(self, entry: Entry) -> float:
        return self._watch.silent_s(entry.worker or "", entry.ticket.job)

    def _take_back(self, dead: list[Entry]) -> list[str]:
        reaped: list[str] = []
        for entry in dead:
            # What can't be read now is judged at a later look; the others need not wait for it.
            with contextlib.suppress(OSError):
                if self._move(entry):
                    reaped.append(entry.ticket.job)
        return reaped

    def _move(self, entry: Entry) -> bool:
        state = retry_policy.next_state(self._root.job(entry.ticket.job), entry.ticket.attempt)
        target = following(entry, state)
        moved = fs.move_once(entry.path(self._root), target.path(self._root))
        if moved:
            # Done is done: what may fail now is its durability, and links that can be remade.
            with contextlib.suppress(OSError, DiskFull):
                fs.sync_dir(self._root.state(state))
                links.publish(self._root, target)
                mark_taken(self._root, entry)
        return moved


def mark_taken(root: RootPaths, entry: Entry) -> None:
    """Write down when a running entry was taken from its worker, which may yet write rows.

    For readers of its rows alone; without it they end where the next attempt's begin.
    """
    attempt = root.job(entry.ticket.job).attempt(entry.ticket.attempt)
    if fs.exists(attempt.dir) and not fs.exists(attempt.end):
        fs.replace(attempt.revoked, encode(ClaimRevoked(at=utc_now())))
