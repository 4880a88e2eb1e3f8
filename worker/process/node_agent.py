"""Runs one node's ranks: started by the launcher, directed by the coordinator.

    python -m worker.process.node_agent --head HOST:PORT,... --ranks R --tmp DIR --log FILE --
    COMMAND ARG...

It runs only while it is connected to the coordinator. When the connection closes for any reason,
its ranks are killed. Rank 0's node writes to `--log` itself, node k to `<log>.node<k>.log`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from jobspec.records import exit_codes
from jobspec.storage.layout import AttemptPaths
from worker.host import scheduler_env
from worker.host.preflight import missing_gpus
from worker.process.channel import Connection
from worker.process.child import Child
from worker.process.node_launcher import SECRET

_TICK_S = 0.05
CONNECT_S = 10.0


def main() -> None:
    """Parse the command line, run this node's ranks, and exit with 0 once their code was sent.

    With any other exit code, a launcher might kill the other nodes before they end themselves.
    """
    parser = argparse.ArgumentParser(prog="python -m worker.process.node_agent")
    parser.add_argument("--head", required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--tmp", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    args.command = args.command[1:] if args.command[:1] == ["--"] else args.command
    for sig in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(sig, signal.SIG_IGN)  # no rank runs yet; the coordinator sends stops
    secret = os.environ.pop(SECRET, "")
    link = connect(args.head.split(","), CONNECT_S)
    created = make_directory(args.tmp)
    try:
        link.send(secret=secret, **describe_node())
        sys.exit(NodeRanks(link, args).run())
    finally:
        if created:
            shutil.rmtree(args.tmp, ignore_errors=True)


class NodeRanks:
    """This node's ranks, from the coordinator's `go` to their end."""

    def __init__(self, link: Connection, args: argparse.Namespace) -> None:
        self._link = link
        self._args = args
        self._child: Child | None = None
        self._asked_to_stop = False
        for sig in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(sig, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True  # schedulers signal every process of a step

    def run(self) -> int:
        """Run until the ranks end or the connection closes. Returns the exit code.

        It is 0 if the ranks have ended and the coordinator has their exit code. Otherwise the exit
        of this process makes the rank launcher kill the ranks and everything they started. Killing
        the launcher from here could leave daemons running, if it is a subreaper.
        """
        while self._link.open:
            if self._child is not None and (code := self._child.wait(0)) is not None:
                self._link.send(exit=code)
                return 0
            self._listen()
        return exit_codes.NODE_LOST

    def _listen(self) -> None:
        ready, _, _ = select.select([self._link], [], [], _TICK_S)
        for message in self._link.receive() if ready else []:
            if "go" in message:
                self._child = self._start(message)
            if "stop" in message:
                self._asked_to_stop = True
        if self._asked_to_stop and self._child is not None:
            self._asked_to_stop = False
            self._child.stop()

    def _start(self, go: dict[str, Any]) -> Child:
        args, number = self._args, int(go["go"])
        launcher = [
            sys.executable,
            "-m",
            "worker.process.rank_launcher",
            "--ranks",
            str(args.ranks),
        ]
        launcher += ["--first", str(number * args.ranks), "--world", str(go["nodes"] * args.ranks)]
        launcher += ["--address", go["address"] or self._link.there, "--port", str(go["port"])]
        launcher += ["--parent", str(os.getpid()), "--isolation", args.isolation]
        log = AttemptPaths(args.log.parent).log(args.log.stem, number)
        return Child([*launcher, "--", *args.command], os.environ, log)


def connect(addresses: list[str], timeout_s: float) -> Connection:
    """Connect to the coordinator at the first of its addresses that accepts."""
    deadline = time.monotonic() + timeout_s
    while True:
        for address in addresses:
            host, _, port = address.rpartition(":")
            with contextlib.suppress(OSError):
                return Connection(socket.create_connection((host, int(port)), timeout=10.0))
        if time.monotonic() > deadline:
            sys.stderr.write(
                f"node {socket.gethostname()}: no coordinator at {', '.join(addresses)}\n"
            )
            sys.exit(exit_codes.NODE_LOST)
        time.sleep(0.2)


def describe_node() -> dict[str, Any]:
    """This node's name and order, a free port for rank 0, and why the node is unfit, if it is."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    # The scheduler's order keeps neighbouring nodes together. Without a scheduler it is 0.
    order = scheduler_env.read().process_rank
    unfit = "; ".join(finding.message for finding in missing_gpus())
    return {"host": socket.gethostname(), "order": order, "port": port, "unfit": unfit or None}


def make_directory(path: Path) -> bool:
    """Create the worker's node-local directory on this node. Returns whether it is new.

    Raises:
        PermissionError: the directory belongs to another user.
    """
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        status = path.lstat()
        if status.st_uid != os.getuid() or not path.is_dir() or path.is_symlink():
            raise PermissionError(f"`{path}` belongs to another user") from None
        return False
    return True


if __name__ == "__main__":
    main()
