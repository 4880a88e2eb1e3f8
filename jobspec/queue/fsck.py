"""`fsck`: restores missing queue entries and deletes temporary files of dead processes.

An entry is missing after a crash between the two steps of an enqueue, or after a scratch purge.
Several processes may repair the queue at the same time while workers run, because each step is a
rename that only one process can win.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jobspec.queue import enqueue
from jobspec.queue.entries import Entry, list_entries, matches_id, read_bytes, read_record, scan
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State, encode, utc_now
from jobspec.records.queue_files import Enqueued
from jobspec.storage import descriptors, fs, tempfiles
from jobspec.storage.layout import JOB_PATTERN, AttemptPaths, JobPaths, RootPaths

_REBUILT_PREFIX = f"{JobPaths.REBUILT}."


@dataclass(frozen=True)
class Repairs:
    """What `fsck` did.

    Attributes:
        completed: jobs whose interrupted enqueue was finished.
        rebuilt: jobs whose missing entry was made again.
        restored: jobs whose missing directory was made again from the entry.
        superseded: names of deleted entries of earlier attempts, and of second entries.
        swept: deleted temporary files.
        hopeless: jobs that can't be repaired, because their spec is lost.
    """

    completed: list[str] = field(default_factory=list[str])
    rebuilt: list[str] = field(default_factory=list[str])
    restored: list[str] = field(default_factory=list[str])
    superseded: list[str] = field(default_factory=list[str])
    swept: list[str] = field(default_factory=list[str])
    hopeless: list[str] = field(default_factory=list[str])


def fsck(root: RootPaths) -> Repairs:
    """Repair the whole queue. Safe at any time, also while workers and other repairs run."""
    repairs = Repairs()
    jobs = {name for name in fs.list_names(root.jobs) if JOB_PATTERN.fullmatch(name)}
    # RACE: a job's directory is read before the entries. If its ticket has already left the
    # directory by then, the scan must see the entry, unless it is really lost.
    plans = {job: _plan(root.job(job)) for job in sorted(jobs - scan(root).keys())}
    entries = scan(root)
    for job, plan in plans.items():
        if job not in entries:
            _repair(root, root.job(job), plan, repairs)
    for job in sorted(entries.keys() - jobs):
        _restore(root, entries[job], repairs)
    _drop_superseded(root, entries, repairs)
    _sweep(root, jobs, repairs)
    return repairs


def repair_job(root: RootPaths, job: str) -> Entry | None:
    """Repair one job that seems to have no entry. Returns the entry that it has afterwards."""
    plan = _plan(root.job(job))
    if job not in scan(root):
        _repair(root, root.job(job), plan, Repairs())
    return scan(root).get(job)


@dataclass(frozen=True)
class _RepairPlan:
    has_ticket: bool
    unfinished: int | None  # a rebuilt attempt whose ticket has not been moved yet
    last_attempt: int
    next_attempt: int


def _plan(job: JobPaths) -> _RepairPlan:
    names = fs.list_names(job.dir)
    attempts = [int(name) for name in fs.list_names(job.attempts) if name.isdecimal()]
    rebuilt = [
        int(name.removeprefix(_REBUILT_PREFIX))
        for name in names
        if name.startswith(_REBUILT_PREFIX) and name.removeprefix(_REBUILT_PREFIX).isdecimal()
    ]
    unfinished = [n for n in rebuilt if fs.exists(job.rebuilt(n) / job.ticket.name)]
    return _RepairPlan(
        has_ticket=job.ticket.name in names,
        unfinished=max(unfinished, default=None),
        last_attempt=max(attempts, default=0),
        next_attempt=max([*attempts, *rebuilt], default=0) + 1,
    )


def _repair(root: RootPaths, job: JobPaths, plan: _RepairPlan, repairs: Repairs) -> None:
    if plan.has_ticket:
        enqueue.move_ticket(root, job)
        fs.sync_dir(root.state(State.PENDING))
        repairs.completed.append(job.job)
        return
    spec = read_bytes(job.spec)
    if spec is None or not matches_id(job.job, spec):
        repairs.hopeless.append(job.job)
        return
    state, attempt = _destination(job, plan)
    if _rebuild(root, job, Entry(state, enqueue.ticket_of(job, attempt)), spec):
        repairs.rebuilt.append(job.job)


def _destination(job: JobPaths, plan: _RepairPlan) -> tuple[State, int]:
    if plan.unfinished is not None:
        return State.PENDING, plan.unfinished
    if plan.last_attempt and plan.last_attempt + 1 == plan.next_attempt:
        final = _final_state(job.attempt(plan.last_attempt))
        if final is not None:
            return final, plan.last_attempt
    return State.PENDING, plan.next_attempt


def _final_state(attempt: AttemptPaths) -> State | None:
    """The final state that the attempt's end.json stands for; None if the job must run again."""
    end = read_record(attempt.end, End)
    if end is None or fs.exists(attempt.retry):
        return None
    if end.reason is Reason.SUCCEEDED and read_record(attempt.result, Result) is not None:
        return State.SUCCEEDED
    if end.reason in (Reason.FAILED, Reason.CORRUPT):
        return State.FAILED
    return State.CANCELLED if end.reason is Reason.CANCELLED else None


def _rebuild(root: RootPaths, job: JobPaths, entry: Entry, spec: bytes) -> bool:
    target = entry.path(root)
    if entry.state is not State.PENDING:  # writing it twice does no harm
        fs.publish(target, spec)
        return True
    # RACE: two repairs must make one entry only, even if a worker claims it in between. The
    # directory can be made only once, so the single ticket in it can be moved only once.
    rebuilt_dir = job.rebuilt(entry.ticket.attempt)
    files = {
        f"{JobPaths.REBUILT}.json": (
            encode(Enqueued(enqueued_at=utc_now(), host=tempfiles.host())),
            0o644,
        ),
        job.ticket.name: (spec, descriptors.file_mode()),
    }
    if not fs.exists(rebuilt_dir):
        with fs.staged_dir(rebuilt_dir, files) as staging:
            fs.place_dir(staging, rebuilt_dir)
        fs.sync_dir(job.dir)
    ticket = rebuilt_dir / job.ticket.name
    moved = fs.exists(ticket) and fs.move_once(ticket, target)
    fs.sync_dir(target.parent)
    return moved


def _restore(root: RootPaths, entry: Entry, repairs: Repairs) -> None:
    """Make a purged job directory again from the ticket, which is a copy of the spec."""
    job = root.job(entry.ticket.job)
    data = read_bytes(entry.path(root))
    if data is None:
        return
    if not matches_id(entry.ticket.job, data):
        repairs.hopeless.append(entry.ticket.job)
        return
    fs.make_dir(job.dir)
    fs.publish(job.spec, data, mode=0o444)
    enqueued = Enqueued(enqueued_at=entry.enqueued_at, priority=entry.ticket.priority)
    fs.publish(job.enqueue, encode(enqueued))
    repairs.restored.append(entry.ticket.job)


def _drop_superseded(root: RootPaths, entries: dict[str, Entry], repairs: Repairs) -> None:
    """Remove entries of earlier attempts of jobs that have a later one, and second entries.

    A job that was enqueued again after its directory had been deleted had two entries. Their times
    differ, so an entry that moves meanwhile does not count as a second one.
    """
    for state in State:
        for entry in list_entries(root, state):
            latest = entries.get(entry.ticket.job)
            if latest is None:
                continue
            second = entry.ticket.enqueued != latest.ticket.enqueued
            earlier = entry.ticket.attempt < latest.ticket.attempt
            if earlier or (second and _rank(entry) < _rank(latest)):
                fs.remove(entry.path(root))
                repairs.superseded.append(entry.name)


def _rank(entry: Entry) -> tuple[tuple[int, int], str]:
    """Which of a job's entries stays: the one that has come furthest."""
    return entry.recency, entry.ticket.enqueued


def _sweep(root: RootPaths, jobs: set[str], repairs: Repairs) -> None:
    directories = [root.root, root.queue, root.workers, root.quarantine, root.probes]
    directories += [root.cache, root.prepared]
    directories += [root.state(state) for state in State]
    for job in sorted(jobs):
        paths = root.job(job)
        attempts = [paths.attempts / name for name in fs.list_names(paths.attempts)]
        directories += [paths.dir, paths.attempts, *attempts]
    for directory in directories:
        repairs.swept.extend(fs.sweep(directory))
