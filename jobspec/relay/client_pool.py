"""The client processes of one relay: as many as its open runs need."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jobspec.relay.client import ClientProcess, connect

RUNS_A_CLIENT = 50  # open at once in one process: memory and file descriptors


class ClientPool:
    """Starts one client to check wandb, key and server. Raises RelayError if one is missing."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._clients = [connect(tick)]
        self.base_url: str = self._clients[0].hello["base_url"]
        self.entity: str | None = self._clients[0].hello["entity"]

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
            if load.get(id(client), RUNS_A_CLIENT) < RUNS_A_CLIENT
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
        client = ClientProcess(self._tick)
        self._clients.append(client)
        return client
