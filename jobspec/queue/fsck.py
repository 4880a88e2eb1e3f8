"""`fsck`: give back their queue entries to jobs that have none, and sweep what the dead left.

Entries can be lost by a crash between the two steps of an enqueue, and by a scratch purge. Several
may repair at once while others work: each step is a rename that only one can win.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jobspec.queue import enqueue
from jobspec.queue.entries import Entry, answers_to, in_state, read_bytes, read_record, scan
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State, encode, utc_now
from jobspec.records.queue_files import Enqueued
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import JOB_PATTERN, AttemptPaths, JobPaths, RootPaths

_REBUILT = f"{JobPaths.REBUILT}."


@dataclass(frozen=True)
class Repairs:
    """What `fsck` did, as job ids and names; empty lists where all was well."""

    completed: list[str] = field(default_factory=list[str])
    rebuilt: list[str] = field(default_factory=list[str])
    restored: list[str] = field(default_factory=list[str])
    superseded: list[str] = field(default_factory=list[str])
    swept: list[str] = field(default_factory=list[str])
    hopeless: list[str] = field(default_factory=list[str])


def fsck(root: RootPaths) -> Repairs:
    """Repair the whole queue. Safe at any time, by any number at once, beside running workers."""
    repairs = Repairs()
    jobs = {name for name in fs.list_names(root.jobs) if JOB_PATTERN.fullmatch(name)}
    # RACE: what a job's own directory shows is read before the entries. Had its ticket left that
    # directory by then, the entry must be seen after it, or is truly lost.
    plans = {job: _plan(root.job(job)) for job in sorted(jobs - scan(root).keys())}
    entries = scan(root)
    for job, plan in plans.items():
        if job not in entries:
            _carry_out(root, root.job(job), plan, repairs)
    for job in sorted(entries.keys() - jobs):
        _restore(root, entries[job], repairs)
    _drop_superseded(root, entries, repairs)
    _sweep(root, jobs, repairs)
    return repairs


def repair_job(root: RootPaths, job: str) -> Entry | None:
    """`fsck` for one job that is thought to have no entry; the entry it has then."""
    plan = _plan(root.job(job))
    if job not in scan(root):
        _carry_out(root, root.job(job), plan, Repairs())
    return scan(root).get(job)


@dataclass(frozen=True)
class _Plan:
    has_ticket: bool
    waiting: int | None  # a rebuilt attempt whose ticket was not moved yet
    highest: int
    following: int


def _plan(job: JobPaths) -> _Plan:
    names = fs.list_names(job.dir)
    attempts = [int(name) for name in fs.list_names(job.attempts) if name.isdecimal()]
    rebuilt = [
        int(name.removeprefix(_REBUILT))
        for name in names
        if name.startswith(_REBUILT) and name.removeprefix(_REBUILT).isdecimal()
    ]
    waiting = [n for n in rebuilt if fs.exists(job.rebuilt(n) / job.ticket.name)]
    return _Plan(
        has_ticket=job.ticket.name in names,
        waiting=max(waiting, default=None),
        highest=max(attempts, default=0),
        following=max([*attempts, *rebuilt], default=0) + 1,
    )


def _carry_out(root: RootPaths, job: JobPaths, plan: _Plan, repairs: Repairs) -> None:
    if plan.has_ticket:
        enqueue.move_ticket(root, job)
        fs.sync_dir(root.state(State.PENDING))
        repairs.completed.append(job.job)
        return
    spec = read_bytes(job.spec)
    if spec is None or not answers_to(job.job, spec):
        repairs.hopeless.append(job.job)
        return
    state, attempt = _destination(job, plan)
    if _rebuild(root, job, Entry(state, enqueue.ticket_of(job, attempt)), spec):
        repairs.rebuilt.append(job.job)


def _destination(job: JobPaths, plan: _Plan) -> tuple[State, int]:
    if plan.waiting is not None:
        return State.PENDING, plan.waiting
    if plan.highest and plan.highest + 1 == plan.following:
        verdict = _verdict(job.attempt(plan.highest))
        if verdict is not None:
            return verdict, plan.highest
    return State.PENDING, plan.following


def _verdict(attempt: AttemptPaths) -> State | None:
    """The final state that an attempt's own word stands for; None if it is to be done again."""
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
    if entry.state is not State.PENDING:  # final: writing the same bytes twice is the same entry
        fs.publish(target, spec)
        return True
    # RACE: two repairs must make one entry, though a worker may have claimed it in between. The
    # directory can be made once, so the one ticket in it can be moved once.
    place = job.rebuilt(entry.ticket.attempt)
    files = {
        f"{JobPaths.REBUILT}.json": (
            encode(Enqueued(enqueued_at=utc_now(), host=tempfiles.host())),
            0o644,
        ),
        job.ticket.name: (spec, 0o644),
    }
    if not fs.exists(place):
        with fs.staged_dir(place, files) as staged:
            fs.place_dir(staged, place)
        fs.sync_dir(job.dir)
    moved = fs.exists(place / job.ticket.name) and fs.move_once(place / job.ticket.name, target)
    fs.sync_dir(target.parent)
    return moved


def _restore(root: RootPaths, entry: Entry, repairs: Repairs) -> None:
    """Remake a purged job directory from the ticket, which holds the spec's bytes."""
    job = root.job(entry.ticket.job)
    data = read_bytes(entry.path(root))
    if data is None:
        return
    if not answers_to(entry.ticket.job, data):
        repairs.hopeless.append(entry.ticket.job)
        return
    fs.make_dir(job.dir)
    fs.publish(job.spec, data, mode=0o444)
    facts = Enqueued(enqueued_at=entry.enqueued_at, priority=entry.ticket.priority)
    fs.publish(job.enqueue, encode(facts))
    repairs.restored.append(entry.ticket.job)


def _drop_superseded(root: RootPaths, entries: dict[str, Entry], repairs: Repairs) -> None:
    """Remove entries of earlier attempts beside later ones; such a name never comes back."""
    for state in State:
        for entry in in_state(root, state):
            latest = entries.get(entry.ticket.job)
            if latest is not None and entry.ticket.attempt < latest.ticket.attempt:
                fs.remove(entry.path(root))
                repairs.superseded.append(entry.name)


def _sweep(root: RootPaths, jobs: set[str], repairs: Repairs) -> None:
    directories = [root.root, root.queue, root.workers, root.quarantine, root.cache, root.prepared]
    directories += [root.state(state) for state in State]
    for job in sorted(jobs):
        paths = root.job(job)
        attempts = [paths.attempts / name for name in fs.list_names(paths.attempts)]
        directories += [paths.dir, paths.attempts, *attempts]
    for directory in directories:
        repairs.swept.extend(fs.sweep(directory))
