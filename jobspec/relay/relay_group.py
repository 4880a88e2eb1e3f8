"""The relays of all destinations that jobs name, one after another, pass after pass."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobspec.queue.queue import Queue
from jobspec.relay.job_sinks import JobSinks
from jobspec.relay.online import Relay, RelayOptions
from jobspec.relay.tracked_run import RelayError
from jobspec.spec.tracking_sinks import WANDB
from jobspec.storage.handover_lock import HandoverLock

_TRY_AGAIN_S = 60.0  # to start a destination that could not be used


class RelayGroup:
    """Starts a relay for each destination that a job names, or W&B's if there is no job yet.

    Args:
        lock: held by this process, so no other relay runs.
        say: called with each new problem.

    Raises:
        RelayError: one of these destinations cannot be used.
    """

    def __init__(
        self, queue: Queue, options: RelayOptions, lock: HandoverLock, say: Callable[[str], None]
    ) -> None:
        self._queue, self._options, self._lock, self._say = queue, options, lock, say
        self._sinks = JobSinks(options.sinks)
        self._problems: dict[str, str] = {}
        self._try_at = float("-inf")
        self.relays: dict[str, Relay] = {}
        try:
            for sink in self._sinks.named(options.select()) or options.sinks or (WANDB,):
                self._start(sink)
        except BaseException:
            self.close()
            raise

    def once(self) -> bool:
        """Make one pass. Returns whether all that exists by now has arrived, or was given up."""
        if self._options.timing.watch:
            self._start_new()
        done = [relay.once() for relay in self.relays.values()]
        return all(done)

    @property
    def problems(self) -> list[str]:
        """What is wrong now."""
        found = [text for relay in self.relays.values() for text in relay.problems.values()]
        return [*self._problems.values(), *found]

    def wait(self) -> None:
        """Wait until the next pass is due, and send heartbeats meanwhile."""
        relays = list(self.relays.values())
        relays[0].rest(min(relay.pause_s for relay in relays))

    def close(self) -> None:
        """Kill the clients. The next relay sends what they did not send."""
        for relay in self.relays.values():
            relay.close()

    def _start(self, sink: str) -> None:
        relay = Relay(self._queue, self._options, sink, self._sinks, self._lock, self._say)
        self.relays[sink] = relay

    def _start_new(self) -> None:
        """Start relays for destinations that only later jobs name; a failure stops no other."""
        if time.monotonic() < self._try_at:
            return
        self._try_at = time.monotonic() + self._options.interval_s
        for sink in self._sinks.named(self._options.select()):
            if sink in self.relays:
                continue
            try:
                self._start(sink)
                self._problems.pop(sink, None)
            except RelayError as error:
                self._try_at = time.monotonic() + _TRY_AGAIN_S
                if self._problems.get(sink) != str(error):
                    self._problems[sink] = str(error)
                    self._say(str(error))
