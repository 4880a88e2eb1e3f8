"""The client processes of one relay: so many as its open runs need."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jobspec.relay.client import Link, connect

RUNS_A_CLIENT = 50  # open at once in one process: memory and file descriptors


class Clients:
    """Starts with one, to see that wandb, key and server are there. Raises RelayError if not."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._links = [connect(tick)]
        self.base_url: str = self._links[0].hello["base_url"]
        self.entity: str | None = self._links[0].hello["entity"]

    def any(self) -> Link:
        """One to ask the server by."""
        return next((link for link in self._links if link.alive), None) or self._start()

    def with_room(self, taken: Iterable[Link | None]) -> Link:
        """One for one more run, where `taken` names the client of every open run."""
        load = {id(link): 0 for link in self._links if link.alive}
        for link in taken:
            if id(link) in load:
                load[id(link)] += 1
        free = (link for link in self._links if load.get(id(link), RUNS_A_CLIENT) < RUNS_A_CLIENT)
        return next(free, None) or self._start()

    def drop_dead(self) -> None:
        """Forget those that have died, and clear away what they left."""
        for link in self._links:
            if not link.alive:
                link.kill()
        self._links = [link for link in self._links if link.alive]

    def close(self) -> None:
        """Kill them all."""
        for link in self._links:
            link.kill()

    def _start(self) -> Link:
        link = Link(self._tick)
        self._links.append(link)
        return link
