"""Runs a phase's ranks on several nodes, through a `worker.process.node_agent` on each.

    python -m worker.process.coordinator --nodes N --launcher COMMAND -- PYTHON -m
    worker.process.node_agent ARG...

The command after `--` is started once on each node (`worker.process.node_launcher`). Connections
carry the number of the node, the address of rank 0, stops, and exit codes. If this process, its
worker, the launcher or a node is killed, the connections close, and each node kills its ranks.

The exit code is 0, or that of the first rank that failed anywhere, or `exit_codes.NODE_LOST`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from jobspec.records import exit_codes
from worker.process.channel import Connection
from worker.process.node_launcher import NodeLauncher
from worker.process.rank_launcher import GRACE_S, die_with_parent

_TICK_S = 0.05
_LAST_MESSAGES_S = 2.0  # wait for messages that nodes sent just before the launcher ended


@dataclass
class NodeConnection:
    """A connected node: what it reported, and the exit code of its ranks once they have ended."""

    link: Connection
    host: str
    order: int
    port: int
    code: int | None = None


class Coordinator:
    """The nodes of one phase, from the start of the launcher to the end of the last node."""

    def __init__(self, command: list[str], args: argparse.Namespace) -> None:
        self._count = args.nodes
        self._grace_s = args.grace
        self._nodes: list[NodeConnection] = []
        self._asked_to_stop = False
        self._failed: int | None = None
        self._deadline = time.monotonic() + args.patience
        self._launcher_ended = float("inf")
        me = os.getpid()
        for sig in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(sig, self.stop)
        self._launcher = NodeLauncher(
            args.launcher,
            self._count,
            command,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL, me),
        )

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: ask every rank on every node to stop at a point they agree on."""
        self._asked_to_stop = True

    def run(self) -> int:
        """Wait for all nodes' ranks. Returns the exit code."""
        try:
            while not self._has_ended():
                self._listen_to_all()
                self._forward_stop()
                self._check_launcher()
            return self._failed or 0
        finally:
            self._end_all()

    def _has_ended(self) -> bool:
        here = len(self._nodes) == self._count
        if here and all(node.code is not None for node in self._nodes):
            return True
        if time.monotonic() < self._deadline:
            return False
        if not here:
            self._fail(
                exit_codes.NODE_LOST, f"{len(self._nodes)} of {self._count} nodes connected", 0.0
            )
        return True

    def _listen_to_all(self) -> None:
        for link, messages in self._launcher.receive(self._links, _TICK_S):
            known = next((node for node in self._nodes if node.link is link), None)
            if known is None:
                self._greet(link, messages[0])
            else:
                self._receive(known, messages)

    @property
    def _links(self) -> list[Connection]:
        return [node.link for node in self._nodes]

    def _greet(self, link: Connection, hello: dict[str, Any]) -> None:
        if len(self._nodes) == self._count:
            link.close()
            return
        node = NodeConnection(link, str(hello["host"]), int(hello["order"]), int(hello["port"]))
        self._nodes.append(node)
        if hello.get("unfit"):
            self._fail(exit_codes.NODE_LOST, f"{node.host} is unfit: {hello['unfit']}", 0.0)
        elif len(self._nodes) == self._count:
            self._deadline = float("inf")
            self._go()

    def _go(self) -> None:
        """Number the nodes, and send each the address of rank 0.

        Only addresses known to work are used: the one from which the first node connected or, if
        that node is on this host, the one to which each node connected.
        """
        self._nodes.sort(key=lambda node: (node.order, node.host))
        first = self._nodes[0]
        near = first.link.here == first.link.there
        for number, node in enumerate(self._nodes):
            address = None if near else first.link.there
            node.link.send(go=number, nodes=self._count, address=address, port=first.port)

    def _receive(self, node: NodeConnection, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            if "exit" in message:
                node.code = int(message["exit"])
                if node.code:
                    self._fail(node.code, "", self._grace_s)
        if not node.link.open and node.code is None:
            node.code = exit_codes.NODE_LOST
            self._fail(exit_codes.NODE_LOST, f"{node.host} disconnected", 0.0)

    def _fail(self, code: int, why: str, grace_s: float) -> None:
        """Record the first failure, and give the other ranks `grace_s` to end by themselves."""
        self._deadline = min(self._deadline, time.monotonic() + grace_s)
        if self._failed is None:
            self._failed = code
            if why:
                sys.stderr.write(f"coordinator: {why}\n")

    def _forward_stop(self) -> None:
        if not self._asked_to_stop:
            return
        self._asked_to_stop = False
        if len(self._nodes) < self._count:  # no rank has started
            self._fail(exit_codes.STOPPED, "", 0.0)
        for node in self._nodes:
            node.link.send(stop=True)

    def _check_launcher(self) -> None:
        if self._failed is not None or self._launcher.process.poll() is None:
            return
        self._launcher_ended = min(self._launcher_ended, time.monotonic())
        heard = time.monotonic() > self._launcher_ended + _LAST_MESSAGES_S
        if heard or len(self._nodes) < self._count:
            why = f"the launcher exited with {self._launcher.process.returncode} before its nodes"
            self._fail(exit_codes.NODE_LOST, why, 0.0)

    def _end_all(self) -> None:
        """Disconnect from the nodes, which then kill their ranks, and end the launcher."""
        incomplete = len(self._nodes) < self._count
        self._launcher.end(self._links, self._grace_s, terminate=incomplete)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, run the nodes, and exit with their code."""
    parser = argparse.ArgumentParser(prog="python -m worker.process.coordinator")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--launcher", required=True, help="command; {nodes} in it is replaced")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="PID of the worker")
    parser.add_argument(
        "--patience", type=float, default=600.0, help="seconds for all nodes to connect"
    )
    parser.add_argument("--grace", type=float, default=GRACE_S, help="seconds after a failure")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args: Any = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    die_with_parent(signal.SIGKILL, args.parent)
    sys.exit(Coordinator(command, args).run())


if __name__ == "__main__":
    main()
