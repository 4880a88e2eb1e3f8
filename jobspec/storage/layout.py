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
_CHECKPOINT = re.compile(r"step-(?P<step>[0-9]+)(?P<universal>\.universal)?")
_EPOCH = re.compile(r"epoch-(?P<epoch>[0-9]+)")
_PARTIAL = ".partial"


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


def epoch_of(path: Path) -> int | None:
    """The epoch whose weights a directory holds, by its name; None for other names."""
    match = _EPOCH.fullmatch(path.name)
    return int(match["epoch"]) if match else None


def partial_of(path: Path) -> Path:
    """Where a directory is written before it gets its final name."""
    return path.with_name(f".{path.name}{_PARTIAL}")


def is_partial(path: Path) -> bool:
    """Whether a directory was never finished."""
    return path.name.endswith(_PARTIAL)


@dataclass(frozen=True)
class CheckpointPaths:
    """A checkpoint to resume from: `step-<n>`, or `step-<n>.universal` once it is converted."""

    MANIFEST: ClassVar[str] = "COMPLETE"
    LATEST: ClassVar[str] = "latest"

    dir: Path

    @classmethod
    def of(cls, path: Path) -> CheckpointPaths | None:
        """A directory as a checkpoint, by its name; None for other names."""
        return cls(path) if _CHECKPOINT.fullmatch(path.name) else None

    @cached_property
    def step(self) -> int:
        match = _CHECKPOINT.fullmatch(self.dir.name)
        return int(match["step"]) if match else 0

    @property
    def is_universal(self) -> bool:
        """Whether any number of ranks can load it."""
        return self.dir != self.plain

    @cached_property
    def plain(self) -> Path:
        return self.dir.with_name(f"step-{self.step}")

    @cached_property
    def universal(self) -> Path:
        """Where its converted form goes."""
        return self.dir.with_name(f"step-{self.step}.universal")

    @cached_property
    def manifest(self) -> Path:
        """Published last: a checkpoint without it is incomplete."""
        return self.dir / self.MANIFEST

    @cached_property
    def progress(self) -> Path:
        """The run's counters at that step."""
        return self.dir / "course.json"

    @cached_property
    def latest(self) -> Path:
        """Written by DeepSpeed: the name of the directory that holds its files."""
        return self.dir / self.LATEST


@dataclass(frozen=True)
class SplitPaths:
    """One split of prepared rows, laid out as `datasets.save_to_disk` does, with counts beside."""

    dir: Path

    @cached_property
    def rows(self) -> Path:
        return self.dir / "data-00000-of-00001.arrow"

    @cached_property
    def counts(self) -> Path:
        """Tokens and trained tokens of each row."""
        return self.dir / "counts.npy"

    @cached_property
    def state(self) -> Path:
        return self.dir / "state.json"

    @cached_property
    def info(self) -> Path:
        return self.dir / "dataset_info.json"


@dataclass(frozen=True)
class PreparedPaths:
    """Prepared rows, and the report that is written last."""

    dir: Path

    @cached_property
    def report(self) -> Path:
        return self.dir / "prepared.json"

    @cached_property
    def train(self) -> SplitPaths:
        return SplitPaths(self.dir / "train")

    @cached_property
    def eval(self) -> SplitPaths:
        return SplitPaths(self.dir / "eval")

    def chunk(self, index: int) -> Path:
        """The rows of one chunk of the data file, until they are sorted into the splits."""
        return self.dir / f"piece-{index:06d}.arrow"


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

    def checkpoint(self, step: int) -> CheckpointPaths:
        return CheckpointPaths(self.checkpoints / f"step-{step}")

    def epoch(self, epoch: int) -> Path:
        """The weights after an epoch."""
        return self.checkpoints / f"epoch-{epoch}"

    @cached_property
    def write_speed(self) -> Path:
        """How fast training can save, measured before its first checkpoint."""
        return self.checkpoints / "write_speed.json"

    @cached_property
    def adapter(self) -> Path:
        return self.dir / "adapter"

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

    def prepared_rows(self, key: str) -> PreparedPaths:
        return PreparedPaths(self.prepared / key)

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
