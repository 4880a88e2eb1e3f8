"""Every on-disk name, once. Nothing here touches the disk.

```
ROOT/FORMAT
ROOT/queue/{pending,running,succeeded,failed,cancelled}/<ticket>.json     the directory is the state
ROOT/queue/workers/<worker>.<counter>.<job or idle>, <worker>.json
ROOT/queue/quarantine/<host>.json, ROOT/queue/hold
ROOT/jobs/<job>/…                                                  what a job is and made
ROOT/cache/…                                                       hub, datasets, prepared rows
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

JOB_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,59}-[0-9a-f]{10}")
WORKER_PATTERN = re.compile(r"[a-z0-9-]{1,80}")
_TICKET = re.compile(
    rf"(?P<rank>[0-9]{{3}})-(?P<enqueued>[0-9]{{8}}T[0-9]{{12}}Z)-(?P<job>{JOB_PATTERN.pattern})"
    rf"\.(?P<attempt>[1-9][0-9]{{0,5}})(?:\.(?P<worker>{WORKER_PATTERN.pattern}))?\.json"
)
MAX_PRIORITY = 999


@dataclass(frozen=True, order=True, slots=True)
class Ticket:
    """A queue entry's name, taken apart. Names sort in claim order.

    `rank` is 999 − priority, `enqueued` a UTC time `YYYYMMDDTHHMMSSffffffZ`; attempts begin at 1.
    """

    rank: int
    enqueued: str
    job: str
    attempt: int = 1

    @property
    def priority(self) -> int:
        return MAX_PRIORITY - self.rank

    @property
    def name(self) -> str:
        return f"{self.rank:03d}-{self.enqueued}-{self.job}.{self.attempt}.json"

    def claimed_by(self, worker: str) -> str:
        """The same entry's name in `running/`."""
        return f"{self.name.removesuffix('.json')}.{worker}.json"

    def for_attempt(self, attempt: int) -> Ticket:
        return Ticket(self.rank, self.enqueued, self.job, attempt)

    def with_priority(self, priority: int) -> Ticket:
        return Ticket(MAX_PRIORITY - priority, self.enqueued, self.job, self.attempt)


def parse_entry(name: str) -> tuple[Ticket, str | None] | None:
    """The ticket and the claiming worker (None outside `running/`); None for names not ours."""
    found = _TICKET.fullmatch(name)
    if found is None:
        return None
    ticket = Ticket(int(found["rank"]), found["enqueued"], found["job"], int(found["attempt"]))
    return ticket, found["worker"]


@dataclass(frozen=True)
class AttemptPaths:
    """Everything one attempt writes, and nobody else."""

    CLAIM: ClassVar[str] = "claim.json"
    RESULT: ClassVar[str] = "result.json"
    END: ClassVar[str] = "end.json"

    dir: Path

    @property
    def number(self) -> int:
        return int(self.dir.name)

    @property
    def job_dir(self) -> Path:
        return self.dir.parent.parent

    @cached_property
    def events(self) -> Path:
        return self.dir / "events.jsonl"

    @cached_property
    def metrics(self) -> Path:
        return self.dir / "metrics.jsonl"

    @cached_property
    def progress(self) -> Path:
        return self.dir / "progress.json"

    @cached_property
    def manifest(self) -> Path:
        return self.dir / "manifest.json"

    @cached_property
    def checkpoints(self) -> Path:
        return self.dir / "checkpoints"

    @cached_property
    def trash(self) -> Path:
        return self.dir / "trash"

    @cached_property
    def final_model(self) -> Path:
        return self.dir / "final_model"

    @cached_property
    def eval(self) -> Path:
        return self.dir / "eval"

    @cached_property
    def result(self) -> Path:
        return self.dir / self.RESULT

    @cached_property
    def claim(self) -> Path:
        """Which process made this attempt's directory, and when: the proof of the claim."""
        return self.dir / self.CLAIM

    @cached_property
    def end(self) -> Path:
        return self.dir / self.END

    @cached_property
    def error(self) -> Path:
        return self.dir / "error.json"

    @cached_property
    def retry(self) -> Path:
        """Marks that a person retried the job after this attempt: budgets count anew from here."""
        return self.dir / "retry.json"

    @cached_property
    def taken(self) -> Path:
        """When its claim was taken away: what it writes afterwards is nobody's."""
        return self.dir / "taken.json"

    def log(self, phase: str, node: int = 0) -> Path:
        """What a phase printed; of ranks on several nodes, each node's."""
        return self.dir / (f"{phase}.node{node}.log" if node else f"{phase}.log")

    def done(self, phase: str) -> Path:
        """Written last by a phase that finished: its summary, and why it is not run again."""
        return self.dir / f"{phase}.json"


@dataclass(frozen=True)
class JobPaths:
    """One job's directory."""

    dir: Path

    @property
    def job(self) -> str:
        return self.dir.name

    @cached_property
    def spec(self) -> Path:
        return self.dir / "spec.json"

    @cached_property
    def enqueue(self) -> Path:
        return self.dir / "enqueue.json"

    @cached_property
    def ticket(self) -> Path:
        """The queue entry before its publication; a crash between the two leaves it here."""
        return self.dir / "ticket.json"

    @cached_property
    def attempts(self) -> Path:
        return self.dir / "attempts"

    @cached_property
    def result(self) -> Path:
        return self.dir / "result.json"

    @cached_property
    def final_model(self) -> Path:
        return self.dir / "final_model"

    def attempt(self, number: int) -> AttemptPaths:
        found = self._attempts.get(number)
        if found is None:
            found = self._attempts[number] = AttemptPaths(self.attempts / str(number))
        return found

    @cached_property
    def _attempts(self) -> dict[int, AttemptPaths]:
        return {}

    def rebuilt(self, number: int) -> Path:
        """The directory by which `fsck` rebuilds the entry of attempt `number`, once only."""
        return self.dir / f"rebuilt.{number}"


@dataclass(frozen=True)
class RootPaths:
    """The root: queue, jobs and cache."""

    SUBMIT_LOCK: ClassVar[str] = "turn."  # how the names of `jobspec scale`'s lock file begin

    root: Path

    @cached_property
    def format(self) -> Path:
        return self.root / "FORMAT"

    @cached_property
    def queue(self) -> Path:
        return self.root / "queue"

    @cached_property
    def workers(self) -> Path:
        return self.queue / "workers"

    @cached_property
    def quarantine(self) -> Path:
        return self.queue / "quarantine"

    @cached_property
    def hold(self) -> Path:
        return self.queue / "hold"

    @cached_property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @cached_property
    def cache(self) -> Path:
        return self.root / "cache"

    @cached_property
    def batch_logs(self) -> Path:
        """Logs of array elements, and the batch scripts that were submitted."""
        return self.root / "slurm"

    @cached_property
    def relay_lock(self) -> Path:
        return self.root / "relay" / "writer"

    @cached_property
    def relay_offline(self) -> Path:
        """Runs on disk, for `wandb sync`."""
        return self.root / "relay" / "offline"

    def relay_cursors(self, target: str) -> Path:
        """How far the runs of one server and project have been sent, one file a job."""
        return self.root / "relay" / "cursors" / target

    @cached_property
    def prepared(self) -> Path:
        """Tokenized rows, one directory a content key."""
        return self.cache / "prepared"

    @cached_property
    def overlap(self) -> Path:
        """Which benchmark questions stand in which data, one file a pair of contents."""
        return self.cache / "overlap"

    @cached_property
    def tokenizers(self) -> Path:
        """What AutoTokenizer made of a model's files, one file a fingerprint of them."""
        return self.cache / "tokenizers"

    @cached_property
    def hub(self) -> Path:
        return self.cache / "hub"

    @cached_property
    def datasets(self) -> Path:
        return self.cache / "datasets"

    def state(self, state: str) -> Path:
        found = self._states.get(state)
        if found is None:
            found = self._states[state] = self.queue / state
        return found

    @cached_property
    def _states(self) -> dict[str, Path]:
        return {}

    def job(self, job: str) -> JobPaths:
        last = self._last.get(job)  # a claim and a commit ask for one job's again and again
        if last is None:
            last = JobPaths(self.jobs / job)
            self._last.clear()
            self._last[job] = last
        return last

    @cached_property
    def _last(self) -> dict[str, JobPaths]:
        return {}

    def worker(self, worker: str) -> Path:
        return self.workers / f"{worker}.json"
