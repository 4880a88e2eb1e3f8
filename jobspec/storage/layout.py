"""The name of every file and directory in a root, each defined once. Nothing here reads the disk.

```
ROOT/FORMAT
ROOT/queue/{pending,running,succeeded,failed,cancelled}/<ticket>.json     the directory is the state
ROOT/queue/workers/<worker>.<counter>.<job or idle>, <worker>.json
ROOT/queue/quarantine/<host>.json, ROOT/queue/hold, limits.json, users/, usage.json
ROOT/queue/probes/<kind>.<host>.<devices>.json                     what a node's probe measured
ROOT/jobs/<job>/…                                                  a job's spec and results
ROOT/cache/…                                                       hub, datasets, prepared rows
ROOT/slurm/…, ROOT/relay/…, ROOT/notify/…         logs of workers, state of relays and notifiers
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
MODEL_CARD = "README.md"  # beside a model's weights, as the Hugging Face Hub reads it


@dataclass(frozen=True, order=True, slots=True)
class Ticket:
    """The parts of a queue entry's name. Names sort in claim order.

    Attributes:
        rank: 999 − priority.
        enqueued: a UTC time, `YYYYMMDDTHHMMSSffffffZ`.
        attempt: counts from 1.
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
        """The name of this entry in `running/`."""
        return f"{self.name.removesuffix('.json')}.{worker}.json"

    def for_attempt(self, attempt: int) -> Ticket:
        return Ticket(self.rank, self.enqueued, self.job, attempt)

    def with_priority(self, priority: int) -> Ticket:
        return Ticket(MAX_PRIORITY - priority, self.enqueued, self.job, self.attempt)


def parse_entry(name: str) -> tuple[Ticket, str | None] | None:
    """The ticket and its worker, which is None outside `running/`. None for any other name."""
    match = _TICKET.fullmatch(name)
    if match is None:
        return None
    ticket = Ticket(int(match["rank"]), match["enqueued"], match["job"], int(match["attempt"]))
    return ticket, match["worker"]


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


class DirectoryPaths:
    """Base of a directory's paths. Two are equal if they are of one class and directory."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other.dir == self.dir

    def __hash__(self) -> int:
        return hash(self.dir)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.dir)!r})"


def _below(name: str) -> cached_property[Path]:
    """A property of a directory's class: the path of this name in the directory."""

    def path(owner: DirectoryPaths) -> Path:
        return owner.dir / name

    return cached_property(path)


class CheckpointPaths(DirectoryPaths):
    """A checkpoint to resume from: `step-<n>`, or `step-<n>.universal` once it is converted."""

    MANIFEST: ClassVar[str] = "COMPLETE"
    LATEST: ClassVar[str] = "latest"

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

    # Published last: a checkpoint without it is incomplete.
    manifest = _below(MANIFEST)
    # The run's counters at that step.
    progress = _below("course.json")
    # Written by DeepSpeed: the name of the directory that holds its files.
    latest = _below(LATEST)


class SplitPaths(DirectoryPaths):
    """One split of prepared rows, laid out as `datasets.save_to_disk` does, with counts beside."""

    rows = _below("data-00000-of-00001.arrow")
    # Tokens and trained tokens of each row.
    counts = _below("counts.npy")
    state = _below("state.json")
    info = _below("dataset_info.json")


class PreparedPaths(DirectoryPaths):
    """Prepared rows, and the report that is written last."""

    report = _below("prepared.json")

    @cached_property
    def train(self) -> SplitPaths:
        return SplitPaths(self.dir / "train")

    @cached_property
    def eval(self) -> SplitPaths:
        return SplitPaths(self.dir / "eval")

    def chunk(self, index: int) -> Path:
        """The rows of one chunk of the data file, until they are sorted into the splits."""
        return self.dir / f"piece-{index:06d}.arrow"


class EvaluationPaths(DirectoryPaths):
    """The samples of one model on one benchmark, and how they were scored."""

    PLAN: ClassVar[str] = "plan.json"

    # Published first: what is to be sampled.
    plan = _below(PLAN)
    questions = _below("questions.jsonl")
    scores = _below("scores.jsonl")
    samples = _below("samples.jsonl")

    def likelihoods(self, key: str, index: int) -> Path:
        """One chunk of the likelihoods that a task of lm-eval's asks for; `key` is the plan's."""
        return self.dir / f"likelihoods-{key[:8]}-{index:05d}.jsonl"

    def generations(self, index: int) -> Path:
        """The generations of one chunk of the plan."""
        return self.dir / f"generations-{index:05d}.jsonl"


class HelpPaths(DirectoryPaths):
    """The chunks of samples that an attempt shares with idle workers (`worker/samples/sharing.py`).

    A chunk is a name. It is claimed by a rename from `open/` to a directory of the helper.
    """

    # What to generate, by which engine.
    work = _below("work.msgpack")
    open = _below("open")
    taken = _below("taken")
    done = _below("done")

    @classmethod
    def of_helper(cls, held: Path) -> HelpPaths:
        """The paths of the share in which a helper has this directory."""
        return cls(held.parent.parent)

    def held_by(self, helper: str) -> Path:
        """The names of the chunks that a helper has claimed and not finished."""
        return self.taken / helper

    def result(self, chunk: str) -> Path:
        """The generations of a chunk that a helper has finished."""
        return self.done / f"{chunk}.jsonl"


class AttemptPaths(DirectoryPaths):
    """The files of one attempt, which no other attempt writes."""

    CLAIM: ClassVar[str] = "claim.json"
    RESULT: ClassVar[str] = "result.json"
    END: ClassVar[str] = "end.json"
    CHECKPOINTS: ClassVar[str] = "checkpoints"
    ADAPTER: ClassVar[str] = "adapter"
    TRASH: ClassVar[str] = "trash"
    FINAL_MODEL: ClassVar[str] = "final_model"
    EVAL: ClassVar[str] = "eval"

    @property
    def number(self) -> int:
        return int(self.dir.name)

    @property
    def job_dir(self) -> Path:
        return self.dir.parent.parent

    events = _below("events.jsonl")
    metrics = _below("metrics.jsonl")
    progress = _below("progress.json")
    manifest = _below("manifest.json")
    # The micro-batches that training chose.
    micro_batches = _below("micro_batches.json")
    checkpoints = _below(CHECKPOINTS)

    def checkpoint(self, step: int) -> CheckpointPaths:
        return CheckpointPaths(self.checkpoints / f"step-{step}")

    def epoch(self, epoch: int) -> Path:
        """The weights after an epoch."""
        return self.checkpoints / f"epoch-{epoch}"

    def merged_epoch(self, epoch: int) -> Path:
        """An epoch's adapter merged into the model, there only while it is scored."""
        return partial_of(self.checkpoints / f"merged-{epoch}")

    @cached_property
    def write_speed(self) -> Path:
        """How fast training can save, measured before its first checkpoint."""
        return self.checkpoints / "write_speed.json"

    adapter = _below(ADAPTER)
    trash = _below(TRASH)
    final_model = _below(FINAL_MODEL)
    eval = _below(EVAL)
    # The scores of the benchmarks that did not fail, if another one did.
    partial_scores = _below(f"{EVAL}/report.json")
    result = _below(RESULT)
    # Which process made this directory, and when. It proves the claim.
    claim = _below(CLAIM)
    end = _below(END)
    error = _below("error.json")
    # Exists if a user retried the job after this attempt: retry budgets start again.
    retry = _below("retry.json")
    # When the claim was reaped or cancelled; metric rows written later do not count.
    revoked = _below("taken.json")

    def log(self, phase: str, node: int = 0) -> Path:
        """The output of a phase; each further node has a log of its own."""
        return self.dir / (f"{phase}.node{node}.log" if node else f"{phase}.log")

    def done(self, phase: str) -> Path:
        """The phase's summary, written last. A phase that has one is not run again."""
        return self.dir / f"{phase}.json"


class JobPaths(DirectoryPaths):
    """One job's directory."""

    REBUILT: ClassVar[str] = "rebuilt"
    HELP: ClassVar[str] = "help"

    @property
    def job(self) -> str:
        return self.dir.name

    spec = _below("spec.json")
    enqueue = _below("enqueue.json")
    # The queue entry before it is published. After a crash it may still be here.
    ticket = _below("ticket.json")
    attempts = _below("attempts")
    result = _below("result.json")
    final_model = _below("final_model")

    def attempt(self, number: int) -> AttemptPaths:
        paths = self._attempts.get(number)
        if paths is None:
            paths = self._attempts[number] = AttemptPaths(self.attempts / str(number))
        return paths

    # Chunks of an evaluation that idle workers generate, by attempt; other workers write here.
    help = _below(HELP)

    def help_of(self, attempt: int) -> HelpPaths:
        return HelpPaths(self.help / str(attempt))

    @cached_property
    def _attempts(self) -> dict[int, AttemptPaths]:
        return {}

    def rebuilt(self, number: int) -> Path:
        """The directory that lets `fsck` rebuild the entry of attempt `number` only once."""
        return self.dir / f"{self.REBUILT}.{number}"

    # A spec that no longer matched the job's id, kept when it was restored.
    edited_spec = _below("spec.edited.json")


class BundlePaths(JobPaths):
    """A run that a stranger can verify: a part of a job's directory, and four files about it."""

    SUMS: ClassVar[str] = "manifest-sha256.txt"
    CRATE: ClassVar[str] = "ro-crate-metadata.json"
    ABOUT: ClassVar[str] = "bundle.json"

    # The SHA-256 of every other file, as `sha256sum --check` reads it.
    sums = _below(SUMS)
    # RO-Crate's description of the files.
    crate = _below(CRATE)
    about = _below(ABOUT)
    model_card = _below("README.md")
    # Data files, if they are included.
    data = _below("data")


class NoticePaths(DirectoryPaths):
    """What was reported to one destination of `jobspec notify`: one file per event."""

    # What had happened before this destination was first used.
    start = _below("start.json")
    lock = _below("lock")

    def notice(self, event: str) -> Path:
        return self.dir / f"{event}.json"


class RootPaths(DirectoryPaths):
    """A root: queue, jobs and cache."""

    SUBMIT_LOCK: ClassVar[str] = "turn."  # prefix of the lock file of `jobspec scale`

    @property
    def root(self) -> Path:
        return self.dir

    format = _below("FORMAT")
    queue = _below("queue")
    jobs = _below("jobs")
    cache = _below("cache")
    # Logs of array elements, and the batch scripts that were submitted.
    batch_logs = _below("slurm")

    @cached_property
    def workers(self) -> Path:
        return self.queue / "workers"

    @cached_property
    def quarantine(self) -> Path:
        return self.queue / "quarantine"

    def quarantined(self, host: str) -> Path:
        """Exists while workers on this host must not claim jobs."""
        return self.quarantine / f"{host}.json"

    @cached_property
    def probes(self) -> Path:
        return self.queue / "probes"

    def probe(self, kind: str, host: str, devices: str) -> Path:
        """What was measured of a node. `kind` and `devices` are digests."""
        return self.probes / f"{kind}.{host}.{devices}.json"

    @cached_property
    def hold(self) -> Path:
        return self.queue / "hold"

    @cached_property
    def users(self) -> Path:
        """One empty file for each user who has enqueued a job."""
        return self.queue / "users"

    @cached_property
    def several_users(self) -> Path:
        """Exists once a second user has enqueued a job."""
        return self.queue / "several-users"

    @cached_property
    def limits(self) -> Path:
        """The limits of running jobs per user."""
        return self.queue / "limits.json"

    @cached_property
    def usage(self) -> Path:
        """A cache of the GPU-hours of ended attempts."""
        return self.queue / "usage.json"

    @cached_property
    def relay_lock(self) -> Path:
        return self.root / "relay" / "writer"

    @cached_property
    def relay_offline(self) -> Path:
        """Runs on disk, for `wandb sync`."""
        return self.root / "relay" / "offline"

    def relay_store(self, sink: str) -> Path:
        """The runs of a destination without a server, such as TensorBoard's event files."""
        return self.root / "relay" / sink

    def relay_cursors(self, target: str) -> Path:
        """What was sent to one server and project, one file per job."""
        return self.root / "relay" / "cursors" / target

    def notices(self, destination: str) -> NoticePaths:
        return NoticePaths(self.root / "notify" / destination)

    @cached_property
    def prepared(self) -> Path:
        """Tokenized rows, one directory per content key."""
        return self.cache / "prepared"

    def prepared_rows(self, key: str) -> PreparedPaths:
        return PreparedPaths(self.prepared / key)

    @cached_property
    def overlap(self) -> Path:
        """Benchmark questions found in training data, one file per pair of contents."""
        return self.cache / "overlap"

    @cached_property
    def tokenizers(self) -> Path:
        """Tokenizers as one file each, named by a fingerprint of the model's files."""
        return self.cache / "tokenizers"

    @cached_property
    def hub(self) -> Path:
        return self.cache / "hub"

    @cached_property
    def datasets(self) -> Path:
        return self.cache / "datasets"

    @cached_property
    def nltk_data(self) -> Path:
        return self.cache / "nltk_data"

    def state(self, state: str) -> Path:
        path = self._states.get(state)
        if path is None:
            path = self._states[state] = self.queue / state
        return path

    @cached_property
    def _states(self) -> dict[str, Path]:
        return {}

    def job(self, job: str) -> JobPaths:
        last = self._last.get(job)  # a claim and a commit ask for the same job many times
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
