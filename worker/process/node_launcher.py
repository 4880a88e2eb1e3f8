"""Starts a command once on each of several nodes, and accepts the nodes' connections.

The launcher (srun, on Slurm) starts the command with `--head HOST:PORT,...`. Each node connects to
one of these addresses and sends a secret from its environment with its first message. The
connection carries everything else, so nothing depends on whether a launcher forwards output,
signals and exit codes.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import select
import shlex
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import IO, Any

from worker.host import scheduler_env
from worker.process.channel import Connection

SECRET = "JOBSPEC_NODE_SECRET"


class NodeLauncher:
    """The launcher and the connections of its nodes.

    Args:
        launcher: the command; `{nodes}` in it is replaced.
        nodes: how many.
        command: `PYTHON -m MODULE` and its arguments.
        log: gets the launcher's output; by default this process's own.
        preexec_fn: called in the launcher's process before it begins.

    Raises:
        OSError: the launcher can't be started.
        LookupError, ValueError: the launcher's command can't be parsed.
    """

    def __init__(
        self,
        launcher: str,
        nodes: int,
        command: Sequence[str],
        *,
        log: IO[bytes] | None = None,
        preexec_fn: Callable[[], None] | None = None,
    ) -> None:
        begin = shlex.split(launcher.format(nodes=nodes))
        self._listener = _listen()
        self._unknown: list[Connection] = []
        self._secret = secrets.token_hex(16)
        port = self._listener.getsockname()[1]
        where = ",".join(f"{name}:{port}" for name in _own_names())
        try:
            self.process = subprocess.Popen(
                [*begin, *command[:3], "--head", where, *command[3:]],
                env={**os.environ, SECRET: self._secret, "JOBSPEC_NODES": str(nodes)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=preexec_fn,  # noqa: PLW1509 - the caller's: one thread
            )
        except OSError:
            self._listener.close()
            raise

    def receive(
        self, nodes: Sequence[Connection], timeout_s: float
    ) -> list[tuple[Connection, list[dict[str, Any]]]]:
        """Wait for messages, at most `timeout_s`.

        Args:
            nodes: the connections that were returned before. Closed ones are left out.

        Returns:
            Connections, each with the messages that arrived. One that is not in `nodes` is of a
            new node, which knows the secret. One without messages was closed by its node.
        """
        links = [*self._unknown, *(link for link in nodes if link.open)]
        ready, _, _ = select.select([self._listener, *links], [], [], timeout_s)
        received: list[tuple[Connection, list[dict[str, Any]]]] = []
        for source in ready:
            if not isinstance(source, Connection):
                with contextlib.suppress(OSError):
                    self._unknown.append(Connection(self._listener.accept()[0]))
                continue
            messages = source.receive()
            if source not in self._unknown or self._is_node(source, messages):
                received.append((source, messages))
        return received

    def _is_node(self, link: Connection, messages: list[dict[str, Any]]) -> bool:
        """Whether a new connection sent the secret; it is closed if it sent anything else."""
        if not messages and link.open:
            return False
        self._unknown.remove(link)
        said = str(messages[0].get("secret") if messages else None).encode()
        if hmac.compare_digest(said, self._secret.encode()):
            return True
        link.close()
        return False

    def end(self, nodes: Sequence[Connection], grace_s: float, *, terminate: bool) -> None:
        """Disconnect from all nodes, and wait for the launcher.

        Args:
            nodes: their connections.
            grace_s: seconds after which the launcher is killed.
            terminate: end the launcher now, because nodes that it has yet to start can't connect.
        """
        for link in (*self._unknown, *nodes):
            link.close()
        self._listener.close()
        if terminate:
            self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _listen() -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=1024)


def _own_names() -> list[str]:
    """The names by which other nodes may reach this one, the most likely first."""
    names = [socket.gethostname(), scheduler_env.read().node_name]
    return list(dict.fromkeys(name for name in names if name))
