"""The workers of the soak test: processes that claim jobs of no work, and what is done to them."""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import soak_faults
from benchmarks.soak_faults import Weather
from jobspec.errors import ClaimLost, DiskFull, RootError
from jobspec.queue.claim import Claim
from jobspec.queue.entries import list_state, parse
from jobspec.queue.heartbeat import new_worker_id
from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

BEATS_A_LEASE = 10
GIVEN_BACK_FRAC = 0.02
LONG_FRAC, LONG_LEASES = 0.05, 2.0
ALIVE_LEASES = 0.75  # a worker that was never silent for so long must keep its claim


@dataclass(frozen=True)
class Plan:
    """What a soak does. Several `roots` are mounts of one and the same root."""

    roots: Sequence[Path]
    workers: int
    jobs: int
    seconds: float
    lease_s: float
    work_s: float = 0.0
    faults_per_s: float = 1.0
    faults: Sequence[str] = ("kill", "stop")  # of soak_faults.KINDS
    group: bool = False


class Crowd:
    """The workers' processes, and what is done to them."""

    def __init__(self, plan: Plan, ledgers: Path) -> None:
        self.made: Counter[str] = Counter()
        self.weather = Weather()
        self._plan = plan
        self._ledgers = ledgers
        self._stopped: dict[int, float] = {}
        self._roots: dict[int, Path] = {}
        for number in range(plan.workers):
            self._start(plan.roots[number % len(plan.roots)])

    def one_fault(self) -> None:
        """Kill a worker and start another, suspend one for a while, or one of the other kinds."""
        awake = [pid for pid in self._roots if pid not in self._stopped]
        kind = random.choice(self._plan.faults)
        if kind in ("kill", "stop") and not awake:
            return
        self.made[kind] += 1
        if kind == "kill":
            pid = random.choice(awake)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._start(self._roots.pop(pid))
        elif kind == "stop":
            pid = random.choice(awake)
            os.kill(pid, signal.SIGSTOP)
            self._stopped[pid] = time.monotonic() + random.uniform(0.0, 2.5 * self._plan.lease_s)
        elif kind == "delete":
            self._delete_a_directory()
        else:
            self.weather.fail(kind, random.expovariate(1.0) * self._plan.lease_s / 5)

    def _delete_a_directory(self) -> None:
        """Of a job that waits or runs, as a user does by hand."""
        root = RootPaths(random.choice(self._plan.roots))
        state = random.choice((State.PENDING, State.RUNNING))
        entries = [each for name in list_state(root, state) if (each := parse(state, name))]
        if entries:
            job = random.choice(entries).ticket.job
            with (self._ledgers / "deleted").open("a") as ledger:
                ledger.write(f"deleted {job} 0\n")
            shutil.rmtree(root.job(job).dir, ignore_errors=True)

    def wait(self, seconds: float) -> None:
        """Let time pass, and stopped processes go on when theirs is over."""
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for pid in [pid for pid, until in self._stopped.items() if until <= now]:
                del self._stopped[pid]
                os.kill(pid, signal.SIGCONT)
            if now >= end:
                return
            time.sleep(min(0.05, end - now))

    def wake_all(self) -> None:
        """Let everybody go on, and every call succeed."""
        self.weather.clear()
        self._stopped = dict.fromkeys(self._stopped, 0.0)
        self.wait(0)

    def end(self) -> None:
        """Kill everybody that is left."""
        for pid in self._roots:
            os.kill(pid, signal.SIGKILL)
        for pid in self._roots:
            os.waitpid(pid, 0)
        self._roots.clear()

    def _start(self, root: Path) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                Worker(self._plan, root, self._ledgers, self.weather).live()
            finally:
                os._exit(1)
        self._roots[pid] = root


class Worker:
    """One worker process: sends heartbeats, reaps, claims, waits, commits, for ever."""

    def __init__(self, plan: Plan, root: Path, ledgers: Path, weather: Weather) -> None:
        random.seed()
        self._plan = plan
        self._id = new_worker_id("soak")
        self._ledger = (ledgers / self._id).open("a")
        if plan.group:
            soak_faults.become_member()
        if set(plan.faults) & {"outage", "full"}:
            soak_faults.expose_to(weather)
        self._root = root
        self._queue = self._open()
        self._heartbeat_at = -math.inf
        self._longest_gap_s = 0.0
        self._may_hold = False
        self._idle_s = plan.lease_s / 100

    def live(self) -> None:
        while True:
            try:
                self._live()
            except DiskFull as error:
                self._hold(str(error))
            except OSError:  # a mount that doesn't answer: look again
                time.sleep(self._plan.lease_s / 100)

    def _open(self) -> Queue:
        while True:
            with contextlib.suppress(OSError, DiskFull, RootError):
                return Queue(self._root)
            time.sleep(self._plan.lease_s / 100)

    def _live(self) -> None:
        if self._may_hold:  # an idle heartbeat does not keep the claim
            self._queue.heartbeat(self._id)
        else:
            self._heartbeat(None)
            self._longest_gap_s = 0.0
        self._may_hold = True  # also if `claim` fails: it may have moved the entry
        claim = self._queue.claim(self._id)
        self._may_hold = False
        if claim is None:
            self._release()
            self._idle_s = min(self._idle_s * 2, self._plan.lease_s / 10)
            time.sleep(random.uniform(0.5, 1.0) * self._idle_s)
            return
        self._idle_s = self._plan.lease_s / 100
        self._note("claim", claim)
        with contextlib.suppress(ClaimLost):
            self._work(claim)
            return
        self._note_gap(time.monotonic())
        alive = self._longest_gap_s < ALIVE_LEASES * self._plan.lease_s
        self._note("fenced-alive" if alive else "fenced", claim)

    def _hold(self, why: str) -> None:
        """Stop all claims until there is space, as a worker does."""
        with contextlib.suppress(OSError, DiskFull):
            self._queue.hold(reason=why, by=f"space: {self._id}")
        time.sleep(self._plan.lease_s / 100)

    def _release(self) -> None:
        if not self._queue.was_held:
            return
        probe = self._root / f".probe-{self._id}"
        fs.publish(probe, b"x" * 4096)
        fs.remove(probe)
        self._queue.release()

    def _work(self, claim: Claim) -> None:
        self._try_heartbeat(claim.job, now=True)
        work_s = random.expovariate(1.0) * self._plan.work_s
        if work_s > 0 and random.random() < LONG_FRAC:
            work_s = LONG_LEASES * self._plan.lease_s
        end = time.monotonic() + work_s
        while (now := time.monotonic()) < end:
            time.sleep(min(end - now, self._plan.lease_s / BEATS_A_LEASE))
            self._try_heartbeat(claim.job)
            if claim.held() is False:
                raise ClaimLost("taken away")
        reason = "disk" if random.random() < GIVEN_BACK_FRAC else None
        while not self._end(claim, reason):
            if self._is_gone(claim):
                reason = "filesystem"
            time.sleep(self._plan.lease_s / 100)
            self._try_heartbeat(claim.job)

    def _end(self, claim: Claim, reason: str | None) -> bool:
        """Commit, or give the job back for a reason. False if the root does not answer."""
        try:
            if reason is not None:
                claim.requeue(reason)
            else:
                claim.finish("succeeded", {"metrics": {"attempt": float(claim.attempt)}})
        except DiskFull as error:
            self._hold(str(error))
            return False
        except OSError:
            return False
        self._note("commit" if reason is None else "requeue", claim)
        return True

    def _is_gone(self, claim: Claim) -> bool:
        with contextlib.suppress(OSError):
            return not fs.exists(claim.dir.dir)
        return False

    def _try_heartbeat(self, job: str | None, *, now: bool = False) -> None:
        with contextlib.suppress(OSError, DiskFull):
            self._heartbeat(job, now=now)

    def _heartbeat(self, job: str | None, *, now: bool = False) -> None:
        start = time.monotonic()
        self._note_gap(start)
        if now or start - self._heartbeat_at >= self._plan.lease_s / BEATS_A_LEASE:
            self._queue.heartbeat(self._id, job=job)
            # Nobody knows when in the call it is sent: a gap is from the start of one to the end
            # of the next. One that failed does not count.
            self._note_gap(time.monotonic())
            self._heartbeat_at = start
            self._queue.reap()

    def _note_gap(self, now: float) -> None:
        self._longest_gap_s = max(self._longest_gap_s, now - self._heartbeat_at)

    def _note(self, what: str, claim: Claim) -> None:
        self._ledger.write(f"{what} {claim.job} {claim.attempt}\n")
        self._ledger.flush()
