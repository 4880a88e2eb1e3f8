"""What a queue keeps when processes are killed, slow or stopped: `benchmarks.queues --kill`.

Every figure is counted, none is read from a documentation:

- *worker*: workers are killed (SIGKILL) in mid-job; then the queue's own means take their jobs back
  (`PeerQueue.recover`), and one process does what is left. Lost are jobs that nobody got any more.
- *enqueuer*: enqueuers are killed at a random moment. Lost are jobs whose enqueueing had returned,
  torn those that came without all of their bytes.
- *slow*, *stopped*: workers live, but work for longer than a dead one is waited for, or are
  stopped for so long (SIGSTOP) and come back. Doubled are jobs that two of them committed,
  robbed those of living workers that were given to another.
- *fsyncs*: calls a job of enqueue, and of claim + commit, by strace: without any a node's crash, or
  its power's, takes what the page cache held.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import NOT_INSTALLED, table
from benchmarks.peers import PEERS, STALE_S, PeerQueue, installed

KILLS, HOLDERS, TRACED = 20, 5, 20
_LATEST_S = 0.03
_FSYNC = re.compile(r"\bf(?:data)?sync\(")


def print_kills(place: Path, ways: Sequence[str]) -> None:
    """One line a queue."""
    head = ["", "killed workers", "killed enqueuers", "slow workers", "stopped workers",
            "fsyncs enqueue", "claim + commit"]  # fmt: skip
    rows = [_row(place, name) if installed(name) else [name, *[NOT_INSTALLED] * 6] for name in ways]
    print(f"\n{KILLS} kills each, {HOLDERS} workers held up\n{table(head, rows)}")


def _row(place: Path, name: str) -> list[str]:
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        root = Path(scratch)
        return [
            name,
            workers_killed(name, root / "workers").summary(),
            enqueuers_killed(name, root / "enqueuers").summary(),
            held_up(name, root / "slow", stopped=False).summary(),
            held_up(name, root / "stopped", stopped=True).summary(),
            *fsyncs(name, root / "calls"),
        ]


@dataclass
class Outcome:
    """What came of `jobs` jobs."""

    jobs: int
    got: Counter[int] = field(default_factory=Counter[int])
    torn: int = 0
    robbed: int = 0

    @property
    def lost(self) -> int:
        return self.jobs - len(self.got)

    @property
    def doubled(self) -> int:
        return sum(count > 1 for count in self.got.values())

    def summary(self) -> str:
        parts = {"lost": self.lost, "doubled": self.doubled, "torn": self.torn}
        parts["robbed"] = self.robbed
        bad = [f"{count} {what}" for what, count in parts.items() if count]
        return f"{', '.join(bad) or 'all kept'} of {self.jobs}"


def workers_killed(name: str, place: Path) -> Outcome:
    """Each of `KILLS` workers claims a job and is killed before it commits."""
    peer = PEERS[name](place)
    for number in range(KILLS):
        peer.enqueue(number)
    for _ in range(KILLS):
        holder = _Holder(name, place)
        holder.kill()
    peer.recover()
    return _do_the_rest(PEERS[name](place), Outcome(KILLS))


def enqueuers_killed(name: str, place: Path) -> Outcome:
    """Each of `KILLS` enqueuers is killed a random moment after its first job."""
    acked: set[int] = set()
    for turn in range(KILLS):
        readable, writable = os.pipe()
        child = _fork(lambda: _enqueue_for_ever(name, place, 1000 * turn, writable))  # noqa: B023 - forked at once
        os.close(writable)
        acked.add(int(os.read(readable, 8)))
        time.sleep(random.uniform(0, _LATEST_S))  # the moment is what varies, not a wait
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(readable, "rb") as stream:
            rest = stream.read()
        acked |= {int(rest[at : at + 8]) for at in range(0, len(rest), 8)}
    found = _do_the_rest(PEERS[name](place), Outcome(len(acked)))
    # A job whose enqueueing had not returned may have come or not: both are right.
    found.got = Counter({number: count for number, count in found.got.items() if number in acked})
    return found


def held_up(name: str, place: Path, *, stopped: bool) -> Outcome:
    """Workers that live come to their commit after their jobs would have been given to others."""
    peer = PEERS[name](place)
    for number in range(HOLDERS):
        peer.enqueue(number)
    holders = [_Holder(name, place, sends_heartbeats=not stopped) for _ in range(HOLDERS)]
    for holder in holders:
        if stopped:
            os.kill(holder.pid, signal.SIGSTOP)
    peer.recover()
    found = _do_the_rest(PEERS[name](place), Outcome(HOLDERS))
    found.robbed = 0 if stopped else len(found.got)
    for holder in holders:
        if stopped:
            os.kill(holder.pid, signal.SIGCONT)
        if holder.commits():
            found.got[holder.number] += 1
    return found


def fsyncs(name: str, place: Path) -> tuple[str, str]:
    """Calls of fsync and fdatasync a job: of an enqueue, of a claim with its commit."""
    if shutil.which("strace") is None:
        return "needs strace", "needs strace"
    counts = {what: [_traced(name, place, what, jobs) for jobs in (0, TRACED)]
              for what in ("enqueue", "drain")}  # fmt: skip
    enqueue, drain = (f"{(more - none) / TRACED:.1f}" for none, more in counts.values())
    return enqueue, drain


def _traced(name: str, place: Path, what: str, jobs: int) -> int:
    with tempfile.NamedTemporaryFile("r") as trace:
        command = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", trace.name]
        command += [sys.executable, "-m", "benchmarks.peers", name, str(place), what, str(jobs)]
        subprocess.run(command, check=True)
        return len(_FSYNC.findall(trace.read()))


def _do_the_rest(peer: PeerQueue, found: Outcome) -> Outcome:
    while True:
        try:
            claimed = peer.claim()
        except ValueError:
            found.torn += 1
            continue
        if claimed is None:
            return found
        peer.commit(claimed[1])
        found.got[claimed[0]] += 1


class _Holder:
    """A process that has claimed a job, and commits when told, or is killed."""

    def __init__(self, name: str, place: Path, *, sends_heartbeats: bool = False) -> None:
        self._answers, answer = os.pipe()
        asked, self._ask = os.pipe()
        self.pid = _fork(
            lambda: _hold(PEERS[name](place), answer, asked, sends_heartbeats=sends_heartbeats)
        )
        os.close(answer)
        os.close(asked)
        self.number = int(os.read(self._answers, 8))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._end()

    def commits(self) -> bool:
        """Whether its commit went through."""
        os.write(self._ask, b"x")
        told = os.read(self._answers, 1)
        self._end()
        return told == b"y"

    def _end(self) -> None:
        os.waitpid(self.pid, 0)
        os.close(self._answers)
        os.close(self._ask)


def _hold(peer: PeerQueue, answer: int, asked: int, *, sends_heartbeats: bool) -> None:
    claimed = peer.claim()
    assert claimed is not None
    peer.heartbeat(claimed[1])
    os.write(answer, f"{claimed[0]:08d}".encode())
    os.set_blocking(asked, False)
    while True:
        try:
            os.read(asked, 1)
            break
        except BlockingIOError:
            time.sleep(STALE_S / 20)  # between two heartbeats
        if sends_heartbeats:
            peer.heartbeat(claimed[1])
    try:
        peer.commit(claimed[1])
    except Exception:
        os.write(answer, b"n")  # refused, by whatever error: that is the fence
    else:
        os.write(answer, b"y")


def _enqueue_for_ever(name: str, place: Path, first: int, told: int) -> None:
    peer, number = PEERS[name](place), first
    while True:
        peer.enqueue(number)
        os.write(told, f"{number:08d}".encode())
        number += 1


def _fork(body: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return child
