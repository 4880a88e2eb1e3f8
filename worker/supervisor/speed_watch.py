"""Notices that a node is slow while it trains: by the job's own steps, similar jobs, other nodes.

Speeds are tokens a second without padding, so that long rows and other micro-batches matter little.
A step's time leaves out evaluations and saved checkpoints, and medians leave out single pauses.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec.errors import JobspecError
from jobspec.records import base as records
from jobspec.records import metrics, phases
from jobspec.records.base import State
from jobspec.records.manifest import Manifest
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from worker.host import gpus
from worker.launch.manifest import are_alike
from worker.supervisor.progress_log import say

if TYPE_CHECKING:
    from jobspec.queue.claim import Claim
    from worker.supervisor.worker import Worker

EVERY_S = 60.0
_PEERS_EVERY_S = 600.0
_WARM_UP = 5  # the first steps of an attempt compile kernels and fill caches
_FEWEST = 10  # steps that are compared, which took
_LEAST_S = 60.0  # seconds together
_FEWEST_BEFORE = 20
_MOST_BEFORE = 2000
_SLOW, _RECOVERED = 2 / 3, 0.8
_MOSTLY = 0.75
_LAGS = 0.75  # of the other nodes' rate: the node that made a job slow
_FEWEST_PEERS = 3
_MOST_PEERS = 20
_EARLIER_BYTES, _PEER_BYTES = 1 << 20, 1 << 16
# Settings of a training that do not change its speed.
_IRRELEVANT = (
    *("learning_rate", "num_train_epochs", "lr_scheduler_type", "warmup_ratio", "adam_beta1"),
    *("adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "seed", "save_total_limit"),
    "checkpoint_interval_s",
)


class StepSpeed(msgspec.Struct, frozen=True):
    """What a training step's metric row says of its speed. Other rows can't be read as one."""

    phase: str
    step: int
    tokens_per_second: float
    step_s: float
    data_wait_share: float = 0.0
    slowest_host: str | None = None
    slowest_host_share: float = 1.0


@dataclass(frozen=True)
class SlowHost:
    """One of a job's nodes, and the median of its rate as a part of the other nodes' rate."""

    host: str
    share: float

    def __str__(self) -> str:
        return f"its forward passes run at {self.share:.0%} of the other nodes' rate"


@dataclass(frozen=True)
class Slowdown:
    """What became slower since `step`: medians in tokens a second of the last steps and before."""

    step: int
    now: float
    before: float
    waiting: float
    slowest: SlowHost | None


_decoder = msgspec.json.Decoder(StepSpeed)


class Speeds:
    """The steps of one attempt, compared with those before them. `earlier`: of earlier attempts."""

    def __init__(self, earlier: list[float] | None = None) -> None:
        self._before = deque(earlier or [], maxlen=_MOST_BEFORE)
        self._recent = deque[StepSpeed]()
        self._recent_s = 0.0
        self._seen = 0
        self._lags = Counter[str]()
        self.slow = False

    def add(self, step: StepSpeed) -> Slowdown | None:
        """Count a step. Returns a slowdown once, when it is first noticed."""
        self._seen += 1
        if self._seen <= _WARM_UP:
            return None
        if step.slowest_host is not None and step.slowest_host_share < _SLOW:
            self._lags[step.slowest_host] += 1
        self._recent.append(step)
        self._recent_s += step.step_s
        while len(self._recent) > _FEWEST and self._recent_s - self._recent[0].step_s >= _LEAST_S:
            oldest = self._recent.popleft()
            self._recent_s -= oldest.step_s
            if not self.slow:
                self._before.append(oldest.tokens_per_second)
        now = self.median
        if now is None or len(self._before) < _FEWEST_BEFORE:
            return None
        before = statistics.median(self._before)
        if self.slow:
            self.slow = now < _RECOVERED * before
            return None
        self.slow = self._mostly_below(_SLOW * before)
        return self._describe(before) if self.slow else None

    @property
    def median(self) -> float | None:
        """Of the last steps; None while they are too few."""
        if len(self._recent) < _FEWEST or self._recent_s < _LEAST_S:
            return None
        return statistics.median(each.tokens_per_second for each in self._recent)

    @property
    def slowest(self) -> SlowHost | None:
        """The node that was slow in three quarters of the last steps."""
        return slow_host(self._recent, _LAGS)

    @property
    def lagging(self) -> SlowHost | None:
        """The node that was slow in three quarters of the last steps and of the whole attempt's."""
        found = slow_host(self._recent, _SLOW) if self.median is not None else None
        if found is None or self._lags[found.host] < _MOSTLY * (self._seen - _WARM_UP):
            return None
        return found

    def _mostly_below(self, limit: float) -> bool:
        """Whether three quarters of the last steps, and of their time, are below a speed."""
        below = [each for each in self._recent if each.tokens_per_second < limit]
        by_count = len(below) / len(self._recent)
        by_time = sum(each.step_s for each in below) / self._recent_s
        return min(by_count, by_time) >= _MOSTLY

    def _describe(self, before: float) -> Slowdown:
        """Since the first slow step whose next ones are mostly slow too."""
        limit, steps = _SLOW * before, list(self._recent)
        below = [each.tokens_per_second < limit for each in steps]
        follow = [below[index : index + 5] for index in range(len(below))]
        began = next(n for n, near in enumerate(follow) if near[0] and 2 * sum(near) > len(near))
        return Slowdown(
            step=steps[began].step,
            now=statistics.median(each.tokens_per_second for each in steps),
            before=before,
            waiting=statistics.median(each.data_wait_share for each in steps),
            slowest=slow_host([each for each in steps if each.tokens_per_second < limit], _LAGS),
        )


class SpeedWatch:
    """Reads the metric rows of a running attempt once a minute, and reports a slow node once.

    Args:
        worker: whose attempt it is.
        claim: the attempt's.
        nodes: that it trains on.
        event: appends a row to `events.jsonl`.
    """

    def __init__(
        self, worker: Worker, claim: Claim, nodes: int, event: Callable[..., None]
    ) -> None:
        self._worker = worker
        self._claim = claim
        self._nodes = nodes
        self._event = event
        self._offset = 0
        self._next = time.monotonic() + EVERY_S
        self._next_peers = time.monotonic() + _PEERS_EVERY_S
        self._speeds: Speeds | None = None
        self._slower_than_peers = False
        self._named: SlowHost | None = None

    def look(self) -> None:
        """Read new steps if it is time. Raises OSError, DiskFull."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        if self._speeds is None:
            self._speeds = Speeds(list(self._earlier()))
        speeds, was_slow, found = self._speeds, self._speeds.slow, None
        for step in self._new_steps():
            found = speeds.add(step) or found
        if found is not None and speeds.slow:
            self._named = found.slowest
            self._report("slow", self._own(found), found.step)
        elif was_slow and not speeds.slow:
            self._report("fast", f"{self._where} is about as fast as before again", None)
            self._named = None
        elif (one := speeds.slowest if speeds.slow else speeds.lagging) and one.host != self._host:
            self._named = one
            self._report("slow", f"{one.host} is slow: {one}{self._throttling()}", None)
        elif now >= self._next_peers and not self._slower_than_peers and not speeds.slow:
            self._next_peers = now + _PEERS_EVERY_S
            self._compare_with_peers(speeds.median, speeds.slowest)

    def _report(self, event: str, message: str, step: int | None) -> None:
        say(f"{self._claim.job}: {message}")
        self._worker.send_heartbeat(note=message if event == "slow" else None)
        about: dict[str, Any] = {} if step is None else {"step": step}
        about |= {} if self._host is None else {"host": self._host}
        self._event(event, message=message, **about)

    def _own(self, found: Slowdown) -> str:
        waiting = f", {found.waiting:.0%} of it waiting for rows" if found.waiting > 0.5 else ""
        return (
            f"{self._where} became slow: {found.now / found.before:.0%} of this job's earlier rate "
            f"since step {found.step:,} (median {found.now:,.0f} tokens/s, before "
            f"{found.before:,.0f}{waiting}){self._why()}"
        )

    @property
    def _host(self) -> str | None:
        """The slow node; None if it is one of several."""
        if self._named is not None:
            return self._named.host
        return self._worker.host if self._nodes == 1 else None

    @property
    def _where(self) -> str:
        return self._host or f"{self._worker.host} or another of its {self._nodes} nodes"

    def _why(self) -> str:
        passes = "" if self._named is None else f", {self._named}"
        return passes + self._throttling()

    def _throttling(self) -> str:
        devices = self._worker.devices
        if self._named is not None and self._named.host != self._worker.host:
            return ""  # only this node's GPUs can be asked
        found = gpus.answering()[: devices.count] if devices.on_gpu else []
        reasons = [f"GPU {n}: {why}" for n, gpu in enumerate(found) for why in gpu.throttling]
        return f"; {', '.join(reasons)}" if reasons else ""

    def _new_steps(self) -> Iterator[StepSpeed]:
        """The steps of whole rows since the last call."""
        try:
            with self._claim.dir.metrics.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        yield from training_steps(whole.splitlines())

    def _earlier(self) -> Iterator[float]:
        """Speeds in earlier attempts on the same kind and number of devices."""
        job = self._worker.queue.paths.job(self._claim.job)
        mine = records.read(self._claim.dir.manifest, Manifest)
        for number in range(1, self._claim.attempt):
            attempt = job.attempt(number)
            theirs = records.read(attempt.manifest, Manifest)
            if mine is not None and theirs is not None and _same_devices(mine, theirs):
                steps = _last_steps(attempt.metrics, _EARLIER_BYTES)[_WARM_UP:]
                yield from (step.tokens_per_second for step in steps)

    def _compare_with_peers(self, mine: float | None, slowest: SlowHost | None) -> None:
        manifest = records.read(self._claim.dir.manifest, Manifest)
        if mine is None or manifest is None:
            return
        theirs = list(islice(self._peers(manifest), _MOST_PEERS))
        if len(theirs) < _FEWEST_PEERS or mine >= _SLOW * statistics.median(theirs):
            return
        self._slower_than_peers = True
        self._named = slowest or self._named
        median = statistics.median(theirs)
        message = (
            f"{self._where} is slow: {mine / median:.0%} of the rate of {len(theirs)} jobs like "
            f"this one (median {mine:,.0f} tokens/s, theirs {median:,.0f}){self._why()}"
        )
        self._report("slow", message, None)

    def _peers(self, mine: Manifest) -> Iterator[float]:
        """The speeds of running jobs on other hosts with the same model, data and settings."""
        paths = self._worker.queue.paths
        for job in self._worker.queue.jobs(State.RUNNING):
            attempt = paths.job(job.id).attempt(job.attempt)
            theirs = records.read(attempt.manifest, Manifest)
            if theirs is None or theirs.host == mine.host or not _same_devices(mine, theirs):
                continue
            try:
                spec = parsing.load(paths.job(job.id).spec)
            except JobspecError:
                continue
            steps = _last_steps(attempt.metrics, _PEER_BYTES)[-_FEWEST:]
            if len(steps) == _FEWEST and is_as_fast(spec, self._claim.spec):
                yield statistics.median(step.tokens_per_second for step in steps)


def is_as_fast(one: JobSpec, other: JobSpec) -> bool:
    """Whether two specs that train should do so at the same speed on the same devices."""
    if one.train is None or other.train is None:
        return False
    same = {name: getattr(one.train, name) for name in _IRRELEVANT}
    train = msgspec.structs.replace(other.train, **same)
    return (one.model, one.data, one.train) == (other.model, other.data, train)


def slow_host(steps: Collection[StepSpeed], limit: float) -> SlowHost | None:
    """The node that was the slowest in three quarters of these steps, and below `limit` there."""
    slow = [step for step in steps if step.slowest_host_share < limit]
    hosts = Counter(step.slowest_host for step in slow)
    for host, count in hosts.most_common(1):
        if host is not None and count >= _MOSTLY * len(steps):
            shares = [step.slowest_host_share for step in slow if step.slowest_host == host]
            return SlowHost(host, statistics.median(shares))
    return None


def training_steps(lines: Iterable[bytes]) -> Iterator[StepSpeed]:
    """The training steps among metric rows."""
    for line in lines:
        try:
            step = _decoder.decode(line)
        except msgspec.MsgspecError:
            continue
        if phases.trains(step.phase) and step.tokens_per_second > 0 and step.step_s > 0:
            yield step


def _last_steps(path: Path, most: int) -> list[StepSpeed]:
    """The steps in a file's last `most` bytes."""
    try:
        return list(training_steps(metrics.last_lines(path, most)))
    except FileNotFoundError:
        return []


def _same_devices(one: Manifest, other: Manifest) -> bool:
    return are_alike(one, other) and one.plan == other.plan
