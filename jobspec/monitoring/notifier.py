"""Sends the events of a queue to one destination, and tries again what was not accepted."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobspec.monitoring.destinations import DeliveryError, Destination
from jobspec.monitoring.events import Watch
from jobspec.queue.queue import Queue
from jobspec.storage.handover_lock import HandoverLock

_MAX_BACKOFF_S = 60.0


class Notifier:
    """One destination's notifier.

    Args:
        queue: opened for writing.
        destination: accepts the messages.
        watch: its events.
        lock: its lock, held by this process.
        warn: shows a problem.
        interval_s: seconds between two reads of the queue.
    """

    def __init__(
        self,
        queue: Queue,
        destination: Destination,
        watch: Watch,
        lock: HandoverLock,
        warn: Callable[[str], None],
        interval_s: float,
    ) -> None:
        self._queue = queue
        self._destination = destination
        self._watch = watch
        self._lock = lock
        self._warn = warn
        self._interval_s = interval_s
        self._failures = 0
        self.sent: list[str] = []
        self.problems: list[str] = []  # of the last `report`

    def report(self) -> None:
        """Send what is due. Raises Fenced if another notifier took over."""
        self.problems = []
        self._lock.heartbeat()
        for event in self._watch.due():
            self._lock.heartbeat()
            try:
                self._destination.send(event, self._queue.paths.root)
            except DeliveryError as error:
                self._failures += 1
                problem = f"`{event.title}` was not delivered to {self._destination.name}: {error}"
                self.problems.append(problem)
                self._warn(f"{problem}; trying again in {self.pause_s:.0f} s")
                return  # the others would fail as well
            self._failures = 0
            self.sent.append(event.title)
            self._watch.record(event)

    @property
    def pause_s(self) -> float:
        """Seconds until the next try: 1, 2, 4 … 60 after failures, else the interval."""
        if not self._failures:
            return self._interval_s
        return min(_MAX_BACKOFF_S, 2.0 ** min(self._failures - 1, 10))

    def rest(self) -> None:
        """Wait for the next try, and send the lock's heartbeats meanwhile."""
        until = time.monotonic() + self.pause_s
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, self._queue.format.heartbeat_s))
            self._lock.heartbeat()
