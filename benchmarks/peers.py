"""Queues behind one small interface, each used as its documentation says: ours, others, the floor.

    python -m benchmarks.peers NAME DIRECTORY enqueue 20      what strace is put before

A job is 1 KB that begins with its number. `claim` takes one, `commit` ends it; `recover` is what
the queue's documentation offers for jobs whose worker is gone. The floor keeps no promise but that
a name has its bytes: enqueue is write + fsync + rename, claim and commit are rename, then write +
fsync (a result of 1 KB) + rename of the job. `floor + dirs` also fsyncs the directories whose names
are to outlive a crash: one an enqueue, two a commit.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any, Protocol

from jobspec.queue.claim import Claim
from jobspec.queue.heartbeat import new_worker_id
from jobspec.queue.queue import Queue
from jobspec.spec.identity import canonical
from jobspec.spec.schema import JobSpec, ModelSpec

SIZE = 1024
STALE_S = (
    1.0  # a worker counts as dead after this time without a heartbeat, in queues that support it
)
_BUSY_S = 120.0


class PeerQueue(Protocol):
    """One process's view of a queue; made in that process."""

    def enqueue(self, number: int) -> None: ...

    def claim(self) -> tuple[int, Any] | None:
        """A job's number and what `commit` wants; None where nothing is left."""
        ...

    def commit(self, claimed: Any) -> None: ...

    def heartbeat(self, claimed: Any) -> None:
        """Send a heartbeat for the claim, if this queue has heartbeats."""

    def recover(self) -> None:
        """Take back what has been claimed for `STALE_S`, as far as this queue can."""


def payload(number: int) -> bytes:
    """A job's kilobyte."""
    return f"{number:08d}".encode().ljust(SIZE, b".")


def number_of(data: bytes | str) -> int:
    """Whose payload it is. Raises ValueError for anything else, such as half of one."""
    text = data.decode() if isinstance(data, bytes) else data
    if len(text) != SIZE:
        raise ValueError(f"a payload of {len(text)} bytes")
    return int(text[:8])


class Ours:
    """This project's queue; a commit publishes a result too, of 1 KB like the floor's."""

    def __init__(self, place: Path) -> None:
        self._queue = Queue.create(place / "root", heartbeat_s=STALE_S / 10, lease_s=STALE_S)
        self._worker = new_worker_id("bench")
        bare = len(canonical(self._spec(0, "")))
        self._notes = "." * (SIZE - bare)
        self._result = {"metrics": {f"bench/metric_{n:02d}": 0.5 for n in range(24)}}
        self._queue.heartbeat(self._worker)

    def enqueue(self, number: int) -> None:
        self._queue.enqueue(self._spec(number, self._notes))

    def claim(self) -> tuple[int, Claim] | None:
        claim = self._queue.claim(self._worker)
        return None if claim is None else (int(claim.spec.name.removeprefix("job-")), claim)

    def commit(self, claimed: Claim) -> None:
        claimed.finish("succeeded", self._result)

    def heartbeat(self, claimed: Claim) -> None:
        self._queue.heartbeat(self._worker, job=claimed.job)

    def recover(self) -> None:
        until = time.monotonic() + 2 * STALE_S
        while time.monotonic() < until:
            self._queue.reap()
            time.sleep(STALE_S / 20)  # a look; silence is counted between looks

    @staticmethod
    def _spec(number: int, notes: str) -> JobSpec:
        return JobSpec(name=f"job-{number:08d}", notes=notes, model=ModelSpec(name="m"), train=None)


class Dirq:
    """dirq's QueueSimple: `lock` is a hard link, `purge` breaks locks by their age."""

    def __init__(self, place: Path) -> None:
        from dirq.QueueSimple import QueueSimple

        self._queue = QueueSimple(str(place / "dirq"))
        self._names = iter(self._queue)

    def enqueue(self, number: int) -> None:
        self._queue.add(payload(number))

    def claim(self) -> tuple[int, str] | None:
        for _ in range(2):  # what is left of the last listing, then a new one
            for name in self._names:
                if self._queue.lock(name):
                    return number_of(self._queue.get(name)), name
            self._names = iter(self._queue)
        return None

    def commit(self, claimed: str) -> None:
        self._queue.remove(claimed)

    def heartbeat(self, claimed: str) -> None:
        pass

    def recover(self) -> None:
        time.sleep(STALE_S + 1.1)  # it compares whole seconds of mtimes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._queue.purge(maxlock=int(STALE_S))


class LiteQueue:
    """litequeue by default: SQLite in WAL mode with `synchronous = NORMAL`."""

    full = False

    def __init__(self, place: Path) -> None:
        from litequeue import LiteQueue as Peer

        place.mkdir(parents=True, exist_ok=True)
        self._queue = Peer(place / "lite.db", timeout=_BUSY_S)
        if self.full:
            self._queue.conn.execute("PRAGMA synchronous = FULL")

    def enqueue(self, number: int) -> None:
        self._queue.put(payload(number).decode())

    def claim(self) -> tuple[int, str] | None:
        message = self._queue.pop()
        return None if message is None else (number_of(message.data), message.message_id)

    def commit(self, claimed: str) -> None:
        self._queue.done(claimed)

    def heartbeat(self, claimed: str) -> None:
        pass

    def recover(self) -> None:
        time.sleep(STALE_S + 0.1)
        for message in list(self._queue.list_locked(int(STALE_S))):
            self._queue.retry(message.message_id)


class LiteQueueFull(LiteQueue):
    """The same with `synchronous = FULL`: what SQLite's documentation says durability needs."""

    full = True


class Huey:
    """huey's FileStorage: what is dequeued is deleted, so that a commit has nothing to do."""

    def __init__(self, place: Path) -> None:
        from huey.storage import FileStorage

        self._storage = FileStorage("bench", str(place / "huey"))

    def enqueue(self, number: int) -> None:
        self._storage.enqueue(payload(number))

    def claim(self) -> tuple[int, None] | None:
        data = self._storage.dequeue()
        return None if data is None else (number_of(data), None)

    def commit(self, claimed: None) -> None:
        pass

    def heartbeat(self, claimed: None) -> None:
        pass

    def recover(self) -> None:
        pass


class Floor:
    """What the filesystem itself takes; see the module's description for the calls."""

    dirs = False

    def __init__(self, place: Path) -> None:
        self._at = {name: place / name for name in ("pending", "running", "done")}
        for path in self._at.values():
            path.mkdir(parents=True, exist_ok=True)
        self._left: list[str] | None = None
        self._own = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._numbers = itertools.count()

    def enqueue(self, number: int) -> None:
        self._put(self._at["pending"], f"{number:08d}", payload(number))

    def claim(self) -> tuple[int, str] | None:
        if self._left is None:  # once: the floor knows its jobs
            names = sorted(
                path.name for path in self._at["pending"].iterdir() if path.name[0] != "."
            )
            begin = os.getpid() * 7919 % (len(names) or 1)
            self._left = (names[begin:] + names[:begin])[::-1]
        while self._left:
            name = self._left.pop()
            try:
                # RACE: to a name that others use too, two processes on two mounts both succeed: a
                # kernel that remembers the old name finds both to be one file, and does nothing.
                (self._at["pending"] / name).rename(self._at["running"] / f"{name}.{self._own}")
            except FileNotFoundError:
                continue
            return int(name), name
        return None

    def commit(self, claimed: str) -> None:
        self._write(self._at["running"] / f".{self._own}", payload(0))
        if self.dirs:  # its result has a name, that is to last before the job's does
            result = self._at["running"] / f"{claimed}.{self._own}.result"
            (self._at["running"] / f".{self._own}").rename(result)
            self._sync(self._at["running"])
        (self._at["running"] / f"{claimed}.{self._own}").rename(self._at["done"] / claimed)
        if self.dirs:
            self._sync(self._at["done"])

    def heartbeat(self, claimed: str) -> None:
        pass

    def recover(self) -> None:
        pass

    def _put(self, folder: Path, name: str, data: bytes) -> None:
        temp = folder / f".{self._own}-{next(self._numbers)}"
        self._write(temp, data)
        temp.rename(folder / name)
        if self.dirs:
            self._sync(folder)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class FloorDirs(Floor):
    """The floor with its directories fsynced."""

    dirs = True


PEERS: dict[str, Callable[[Path], PeerQueue]] = {
    "floor": Floor,
    "floor + dirs": FloorDirs,
    "ours": Ours,
    "dirq": Dirq,
    "litequeue": LiteQueue,
    "litequeue FULL": LiteQueueFull,
    "huey": Huey,
}
PACKAGE_OF = {"dirq": "dirq", "litequeue": "litequeue", "litequeue FULL": "litequeue",
              "huey": "huey"}  # fmt: skip


def installed(name: str) -> bool:
    """Whether this way's package is there."""
    package = PACKAGE_OF.get(name)
    return package is None or util.find_spec(package) is not None


def main() -> None:
    name, place, what, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    peer = PEERS[name](place)
    for number in range(count):
        if what == "enqueue":
            peer.enqueue(number)
            continue
        claimed = peer.claim()
        assert claimed is not None
        peer.commit(claimed[1])


if __name__ == "__main__":
    main()
