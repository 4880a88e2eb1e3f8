"""Probes one node of a worker that uses several: started by the launcher (see `probe_nodes`).

    python -m worker.supervisor.probe_agent --head HOST:PORT,... --root ROOT --tmp DIR --gpus N

It probes while it is connected to the worker, and exits with 0 once it was, because a launcher
might otherwise kill the other nodes. Messages: `host` and `name` to the worker, `seconds` from it,
then `probe` or `failed` with `said`, the lines for the worker's log.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import DiskFull
from jobspec.queue.root import restrict_umask
from jobspec.storage import patience
from jobspec.storage.layout import RootPaths
from worker.host import identity, scheduler_env
from worker.host.devices import WorkerDevices
from worker.host.node_probe import NodeProber
from worker.process.channel import Connection
from worker.process.node_agent import CONNECT_S, connect, make_directory
from worker.process.node_launcher import SECRET
from worker.program import run_program

_KILLED_AFTER_S = 5  # seconds after the limit, when the worker no longer waits


def main() -> None:
    """Parse the command line, and probe this node if the worker wants it."""
    parser = argparse.ArgumentParser(prog="python -m worker.supervisor.probe_agent")
    parser.add_argument("--head", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--tmp", type=Path, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="0: measure the CPU")
    args = parser.parse_args()
    for sig in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(sig, signal.SIG_IGN)  # the worker gets it too, and disconnects
    restrict_umask()
    secret = os.environ.pop(SECRET, "")
    link = connect(args.head.split(","), CONNECT_S)
    link.send(secret=secret, host=identity.short_host(), name=scheduler_env.read().node_name or "")
    while link.open:
        select.select([link], [], [])
        for message in link.receive():
            link.send(**_probe(link, args, float(message["seconds"])))


def _probe(link: Connection, args: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """The message with this node's probe, or why there is none."""

    def is_wanted() -> bool:
        if select.select([link], [], [], 0)[0]:
            link.receive()
        return link.open

    signal.alarm(int(limit_s) + _KILLED_AFTER_S)  # if a driver hangs, nothing else ends this
    patience.on_wait = lambda error, waited_s: is_wanted() and waited_s < limit_s
    said: list[str] = []
    devices = WorkerDevices(args.gpus, "cuda") if args.gpus else WorkerDevices(1)
    created = False
    try:
        created = make_directory(args.tmp)
        probe, _ = NodeProber(
            RootPaths(args.root),
            identity.short_host(),
            args.tmp,
            devices,
            wait=is_wanted,
            say=said.append,
            limit_s=limit_s,
        ).run()
    except (OSError, DiskFull) as error:
        return {"failed": str(error), "said": said}
    finally:
        signal.alarm(0)
        if created:
            shutil.rmtree(args.tmp, ignore_errors=True)
    if probe is None:
        return {"failed": "other workers of this host were measuring", "said": said}
    return {"probe": msgspec.to_builtins(probe), "said": said}


if __name__ == "__main__":
    run_program(main)
