"""The client processes of one relay: as many as its open runs need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from jobspec.relay.client import ClientProcess, connect


class ClientPool:
    """Starts one client to check package, key and server. Raises RelayError if one is missing."""

    def __init__(self, tick: Callable[[], None], sink: str, store: Path) -> None:
        self._tick, self._sink, self._store = tick, sink, store
        self._clients = [connect(tick, sink=sink, store=store)]
        hello = self._clients[0].hello
        self.place: str = hello["place"]
        self.entity: str | None = hello["entity"]
        self._most_runs: int = hello["runs"]

    def any(self) -> ClientProcess:
        """A client for a question to the server."""
        return next((client for client in self._clients if client.alive), None) or self._start()

    def with_room(self, busy: Iterable[ClientProcess | None]) -> ClientProcess:
        """A client with room for one more run. `busy` has the client of every open run."""
        load = {id(client): 0 for client in self._clients if client.alive}
        for client in busy:
            if id(client) in load:
                load[id(client)] += 1
        free = (
            client
            for client in self._clients
            if load.get(id(client), self._most_runs) < self._most_runs
        )
        return next(free, None) or self._start()

    def drop_dead(self) -> None:
        """Forget the clients that have died, and remove their files."""
        for client in self._clients:
            if not client.alive:
                client.kill()
        self._clients = [client for client in self._clients if client.alive]

    def close(self) -> None:
        """Kill all clients."""
        for client in self._clients:
            client.kill()

    def _start(self) -> ClientProcess:
        client = ClientProcess(self._tick, sink=self._sink, store=self._store)
        self._clients.append(client)
        return client
