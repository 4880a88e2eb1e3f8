"""Revokes the claims of dead workers. A worker is dead if it sent no heartbeat for a lease."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from jobspec.errors import DiskFull
from jobspec.queue import heartbeat, links, retry_policy
from jobspec.queue.entries import Entry, list_entries, next_entry
from jobspec.records.attempt import ClaimRevoked
from jobspec.records.base import State, encode, utc_now
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

_LEASES_UNTIL_FORGOTTEN = 4.0
_DRAIN = ".drain"


class Reaper:
    """Counts the silence of all workers and revokes the claims of those that are dead.

    Args:
        root: the root.
        heartbeat_s: seconds between two heartbeats; a gap between reads counts at most two.
        clock: monotonic seconds.

    Attributes:
        claims: all claims, as the last `reap` found them.
    """

    def __init__(
        self, root: RootPaths, heartbeat_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._silence = heartbeat.SilenceMonitor()
        self._draining: set[str] = set()
        self.claims: list[Entry] = []

    def reap(self, lease_s: float) -> list[str]:
        """Read the heartbeats once, and revoke every claim that has been silent for `lease_s`.

        Returns:
            The jobs moved.

        Raises:
            OSError: the root does not answer; no silence was counted and no claim revoked.
        """
        claims = self._read_heartbeats(lease_s)
        dead = [entry for entry in claims if self._silence_of(entry) >= lease_s]
        holders = {entry.worker for entry in claims}
        for worker in self._silence.silent_workers(_LEASES_UNTIL_FORGOTTEN * lease_s) - holders:
            heartbeat.remove_files(self._root, worker)
        return self._revoke_claims(dead)

    def reap_worker(self, worker: str) -> list[str]:
        """Revoke all claims of `worker`, which the caller knows to be dead."""
        claims = list_entries(self._root, State.RUNNING)
        return self._revoke_claims([entry for entry in claims if entry.worker == worker])

    def silent_s(self, worker: str) -> float:
        """Seconds without any heartbeat of this worker."""
        return self._silence.silent_s(heartbeat.Watched(worker))

    def silent_holders(self, at_least_s: float) -> set[str]:
        """Workers whose claims had been silent for at least so long at the last `reap`."""
        silent = [entry for entry in self.claims if self._silence_of(entry) >= at_least_s]
        return {entry.worker for entry in silent if entry.worker is not None}

    def saw_drain(self, worker: str) -> bool:
        """Whether this worker had been asked to drain at the last `reap`."""
        return worker in self._draining

    def _read_heartbeats(self, lease_s: float) -> list[Entry]:
        before = self._clock()
        claims = self.claims = list_entries(self._root, State.RUNNING)
        names = fs.list_dir(self._root.workers)
        read = before, self._clock()
        self._draining = {name.removesuffix(_DRAIN) for name in names if name.endswith(_DRAIN)}
        heartbeats = heartbeat.parse_heartbeats(names)
        watched = {_watched(entry) for entry in claims}
        watched |= {heartbeat.Watched(each.worker) for each in heartbeats}
        # At most two heartbeats, and never so much that a single gap could use up a lease.
        cap_s = min(2 * self._heartbeat_s, lease_s / 2)
        self._silence.observe(watched, heartbeats, read, cap_s)
        return claims

    def _silence_of(self, entry: Entry) -> float:
        return self._silence.silent_s(_watched(entry))

    def _revoke_claims(self, dead: list[Entry]) -> list[str]:
        reaped: list[str] = []
        for entry in dead:
            # A claim that can't be read now is left to the next `reap`; the others do not wait.
            with contextlib.suppress(OSError):
                if self._revoke(entry):
                    reaped.append(entry.ticket.job)
        return reaped

    def _revoke(self, entry: Entry) -> bool:
        state = retry_policy.next_state(self._root.job(entry.ticket.job), entry.ticket.attempt)
        target = next_entry(entry, state)
        moved = fs.move_once(entry.path(self._root), target.path(self._root))
        if moved:
            # The claim is revoked. Syncing it may fail, and the links can be made again.
            with contextlib.suppress(OSError, DiskFull):
                fs.sync_dir(self._root.state(state))
                links.publish_links(self._root, target)
                mark_revoked(self._root, entry)
        return moved


def _watched(entry: Entry) -> heartbeat.Watched:
    return heartbeat.Watched(entry.worker or "", entry.ticket.job, entry.ticket.attempt)


def mark_revoked(root: RootPaths, entry: Entry) -> None:
    """Record when a claim was revoked, because its worker may still write metric rows.

    Only readers of these rows need the time. Without it, the rows of this attempt end where those
    of the next one begin.
    """
    attempt = root.job(entry.ticket.job).attempt(entry.ticket.attempt)
    if fs.exists(attempt.dir) and not fs.exists(attempt.end):
        fs.replace(attempt.revoked, encode(ClaimRevoked(at=utc_now())))
