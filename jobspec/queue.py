"""The queue: what is to be done, who does it, what came of it, on a plain shared directory.

No server and no lock: the directory an entry is in is its job's state, and one `rename` is the only
transition. Opening a queue starts nothing; killing any process at any point leaves it valid.

    queue = Queue.create("jobspec-root")
    job = queue.enqueue(spec)
    claim = queue.claim("node7-0123456789abcdef")
    claim.finish("succeeded", result)
"""

from __future__ import annotations

import fnmatch
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jobspec import aside, budget, derived, fs, lease, publish, record, repair
from jobspec import root as roots
from jobspec import spec as specs
from jobspec.claim import Claim, following, take
from jobspec.entries import Entry, Job, answers_to, in_state, read_bytes, read_record, scan
from jobspec.errors import JobNotFound, JobspecError, RootError, SpecError, TransitionRefused
from jobspec.paths import RootPaths
from jobspec.record import Hold, Quarantined, State, WorkerRecord
from jobspec.spec import JobSpec

_FIRST_FEW = 8
_FORGOTTEN_LEASES = 4.0
_MOST_TRIES = 20


@dataclass(frozen=True)
class WorkerSeen:
    """A worker as its files show it. `silent_s` is what this Queue object itself saw, else 0."""

    worker: str
    record: WorkerRecord
    job: str | None
    beating: bool
    silent_s: float
    draining: bool


class Queue:
    """One root, as one process sees it. It remembers whose beats it saw moving, so keep it.

    Args:
        root: the root directory.
        allow_group: work with directories and files that the group's members may write or own;
            by default what the environment variable `JOBSPEC_ALLOW_GROUP` says.
        clock: monotonic seconds, for counting silence.

    Raises:
        RootError: there is no root there, or it is of another layout, not writable, or unsafe.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        allow_group: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.paths = RootPaths(Path(root).absolute())
        self.notes: dict[str, str] = {}
        group = roots.group_allowed() if allow_group is None else allow_group
        self.format = roots.open_root(self.paths, group=group)
        self._owned = not group
        self._clock = clock
        self._watch = lease.Watch()
        self._pulses: dict[str, lease.Pulse] = {}
        self._specs: dict[str, JobSpec] = {}
        self._unfit: set[str] = set()

    @classmethod
    def create(
        cls,
        root: str | Path,
        heartbeat_s: float = 15.0,
        lease_s: float = 150.0,
        *,
        allow_group: bool | None = None,
    ) -> Queue:
        """Make the root where there is none, and open it. An existing FORMAT is left as it is."""
        group = roots.group_allowed() if allow_group is None else allow_group
        paths = RootPaths(Path(root).absolute())
        roots.create(paths, heartbeat_s=heartbeat_s, lease_s=lease_s, group=group)
        return cls(root, allow_group=allow_group)

    @cached_property
    def _token(self) -> str:
        return secrets.token_hex(8)

    # Jobs, to be looked at

    def jobs(self, state: State | str | None = None) -> list[Job]:
        """All jobs, in claim order, or those in one state. Reads names, no files."""
        wanted = None if state is None else State(state)
        entries = sorted(scan(self.paths).values(), key=lambda entry: entry.name)
        return [Job(e, self.paths) for e in entries if wanted is None or e.state is wanted]

    def job(self, selector: str) -> Job:
        """The one job of that id or unique prefix. Raises JobNotFound."""
        found = [job for job in self.jobs() if job.id.startswith(selector)]
        exact = [job for job in found if job.id == selector]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if not found:
            raise JobNotFound(f"no job `{selector}`", hint="`jobspec status` lists them")
        some = ", ".join(job.id for job in found[:5])
        raise JobNotFound(f"`{selector}` fits {len(found)} jobs: {some}…", hint="give more letters")

    def select(self, patterns: Iterable[str], state: State | str | None = None) -> list[Job]:
        """The jobs that ids, unique prefixes or globs name; all those in `state` for no pattern.

        Raises:
            JobNotFound: a pattern names none, or a prefix several.
        """
        wanted = None if state is None else State(state)
        jobs = self.jobs()
        chosen: dict[str, Job] = {}
        for pattern in patterns:
            chosen.update((job.id, job) for job in _matching(jobs, pattern))
        if not chosen:
            chosen = {job.id: job for job in jobs} if not list(patterns) else chosen
        return [job for job in chosen.values() if wanted is None or job.state is wanted]

    # Transitions

    def enqueue(self, spec: JobSpec, priority: int = 50) -> Job:
        """Make a job of a spec whose `data.sha256` is filled in. The same spec again is a no-op.

        Returns:
            The job; `.already` says that it was there, and then `.state` where it is.

        Raises:
            DiskFull: nothing half-written stays, and there is no job.
        """
        specs.check(spec)
        job, already = publish.publish(self.paths, spec, priority)
        if not already:
            ticket = publish.ticket_of(self.paths.job(job))
            return Job(Entry(State.PENDING, ticket), self.paths)
        entry = scan(self.paths).get(job)
        if entry is None:
            repair.repair_job(self.paths, job)
            entry = scan(self.paths).get(job)
        if entry is None:
            raise JobspecError(f"`{job}` has no entry", hint="run `jobspec fsck`")
        return Job(entry, self.paths, already=True)

    def claim(
        self, worker: str, fits: Callable[[JobSpec], bool] = lambda spec: True
    ) -> Claim | None:
        """Take one pending job that fits, if there is one and no hold.

        Args:
            worker: this process's own worker id (see `lease.new_worker_id`).
            fits: whether this worker can do the job. It is asked once for each entry; `False` is
                remembered until the entry changes.

        Returns:
            The claim, its spec checked and its attempt's directory made; None for nothing to do.
            `notes` says why jobs were passed over that only another version or user can do.

        Raises:
            OSError: the root doesn't answer.
        """
        aside.checked_worker(worker)
        if aside.on_hold(self.paths) is not None:
            return None
        for entry in self._candidates(fits):
            running = take(self.paths, entry, worker, self._token, owned=self._owned)
            if running is not None:
                spec = self._specs.get(entry.ticket.job) or Job(running, self.paths).spec
                return Claim(running, self.paths, spec)
        return None

    def cancel(self, job: str) -> Job:
        """End a pending or running job, whose worker will miss its claim.

        Raises:
            TransitionRefused: it has ended already.
        """
        for entry in self._until_moved(job, (State.PENDING, State.RUNNING), "cancelled"):
            final = Entry(State.CANCELLED, entry.ticket)
            if self._move(entry, final):
                return Job(final, self.paths)
        raise _busy(job)

    def retry(self, job: str) -> Job:
        """Put a failed or cancelled job back, with its budgets anew. Raises TransitionRefused."""
        for entry in self._until_moved(job, (State.FAILED, State.CANCELLED), "retried"):
            marker = self.paths.job(job).attempt(entry.ticket.attempt).retry
            fs.make_dir(marker.parent)
            fs.publish(marker, record.encode(Hold(reason="retry", at=record.utc_now())))
            again = following(entry, State.PENDING)
            if self._move(entry, again):
                return Job(again, self.paths)
        raise _busy(job)

    def prioritize(self, job: str, priority: int) -> Job:
        """Give a pending job another priority. Raises TransitionRefused."""
        publish.check_priority(priority)
        for entry in self._until_moved(job, (State.PENDING,), "prioritized"):
            moved = Entry(State.PENDING, entry.ticket.with_priority(priority))
            if self._move(entry, moved):
                return Job(moved, self.paths)
        raise _busy(job)

    def publish_derived(self, job: str) -> None:
        """Remake a succeeded job's `result.json` and `final_model` links."""
        entry = scan(self.paths).get(job)
        if entry is not None:
            derived.publish(self.paths, entry)

    def fsck(self) -> repair.Repairs:
        """Give jobs without an entry theirs back, and sweep what dead writers left."""
        roots.create(
            self.paths,
            heartbeat_s=self.format.heartbeat_s,
            lease_s=self.format.lease_s,
            group=not self._owned,
        )
        return repair.fsck(self.paths)

    # Workers

    def heartbeat(
        self, worker: str, record: WorkerRecord | None = None, job: str | None = None
    ) -> None:
        """Show that `worker` lives and holds `job`. Once before the first claim, then regularly.

        A `record` replaces `<worker>.json`; a full disk stops that, but not the beat.
        """
        pulse = self._pulses.get(aside.checked_worker(worker))
        if pulse is None:
            pulse = self._pulses[worker] = lease.Pulse(self.paths, worker)
        pulse.beat(job)
        if record is not None:
            lease.write_record(self.paths, worker, record)

    def retire(self, worker: str) -> None:
        """Remove a worker's liveness files: it has left of its own accord, or is long dead."""
        lease.remove_files(self.paths, aside.checked_worker(worker))
        self._pulses.pop(worker, None)

    def workers(self) -> list[WorkerSeen]:
        """Everybody who has files in `queue/workers/`."""
        names = fs.list_names(self.paths.workers)
        beats = {beat.worker: beat for name in names if (beat := lease.parse_beat(name))}
        records = {name.removesuffix(".json") for name in names if name.endswith(".json")}
        return [
            WorkerSeen(
                worker=worker,
                record=read_record(self.paths.worker(worker), WorkerRecord)
                or WorkerRecord(worker=worker),
                job=beats[worker].job if worker in beats else None,
                beating=worker in beats,
                silent_s=self._watch.silent_s(worker),
                draining=f"{worker}.drain" in names,
            )
            for worker in sorted(records | beats.keys())
        ]

    def reap(
        self, lease_s: float | None = None, *, worker: str | None = None, now: bool = False
    ) -> list[str]:
        """Take dead workers' claims back. Call it again and again: it counts what it saw.

        Args:
            lease_s: silence after which a claim is dead; by default what FORMAT says.
            worker: only this worker's claims.
            now: with `worker`, without waiting for any silence: somebody knows that it is dead.

        Returns:
            The jobs moved, to `pending`, or to `failed` where a budget was used up.

        Raises:
            OSError: the root doesn't answer; nothing was counted, nobody was judged.
        """
        limit = self.format.lease_s if lease_s is None else lease_s
        claims = self._look(limit)
        dead = [
            entry
            for entry in claims
            if (worker is None or entry.worker == worker)
            and ((now and worker is not None) or self._silence_of(entry) >= limit)
        ]
        reaped = [entry.ticket.job for entry in dead if self._take_back(entry)]
        self._forget_idle(claims, limit)
        return reaped

    def drain(self, worker: str) -> None:
        """Ask a worker to finish its job and claim nothing more."""
        aside.drain(self.paths, worker)

    def is_draining(self, worker: str) -> bool:
        """Whether somebody asked this worker to drain."""
        return aside.is_draining(self.paths, worker)

    # Setting aside

    def hold(self, reason: str = "", by: str = "") -> None:
        """Let nobody claim until `release`; what runs, runs on."""
        aside.hold(self.paths, reason, by)

    def release(self) -> None:
        """End a hold."""
        aside.release(self.paths)

    def on_hold(self) -> Hold | None:
        """Why nobody may claim; None where everybody may."""
        return aside.on_hold(self.paths)

    def quarantine(self, host: str, reason: str, ttl_s: float, by: str = "") -> None:
        """Set a host aside for `ttl_s` seconds."""
        aside.quarantine(self.paths, host, reason=reason, by=by, ttl_s=ttl_s)

    def quarantined(self) -> dict[str, Quarantined]:
        """The hosts set aside now, and why."""
        return aside.quarantined(self.paths)

    def clear(self, host: str) -> None:
        """Let a host work again."""
        aside.clear(self.paths, host)

    # How

    def _candidates(self, fits: Callable[[JobSpec], bool]) -> Iterator[Entry]:
        """Pending entries that fit, in claim order but for a random start among the first few.

        RACE: many idle workers see the same list; were all to begin at its head, each would lose to
        all the others. The groups grow, so that losers spread out further.
        """
        pending = in_state(self.paths, State.PENDING)
        self._forget_gone(pending)
        left = [entry for entry in pending if entry.name not in self._unfit]
        size = _FIRST_FEW
        while left:
            group = [entry for entry in left[:size] if entry.ticket.rank == left[0].ticket.rank]
            left, size = left[len(group) :], size * 2
            start = random.randrange(len(group))
            yield from (e for e in group[start:] + group[:start] if self._suits(e, fits))

    def _suits(self, entry: Entry, fits: Callable[[JobSpec], bool]) -> bool:
        spec = self._spec_of(entry)
        if spec is None:
            return entry.name not in self._unfit  # damaged: whoever claims it heals or ends it
        if fits(spec):
            return True
        self._unfit.add(entry.name)
        return False

    def _spec_of(self, entry: Entry) -> JobSpec | None:
        job = entry.ticket.job
        if job not in self._specs:
            try:
                data = self._good_bytes(entry)
                if data is None:
                    return None
                self._specs[job] = specs.decode(data)
            except (RootError, SpecError) as error:
                self._unfit.add(entry.name)
                self.notes[job] = f"left pending: {error}"
                return None
        return self._specs[job]

    def _good_bytes(self, entry: Entry) -> bytes | None:
        for path in (entry.path(self.paths), self.paths.job(entry.ticket.job).spec):
            data = read_bytes(path, owned=self._owned)
            if data is not None and answers_to(entry.ticket.job, data):
                return data
        return None

    def _forget_gone(self, pending: list[Entry]) -> None:
        names = {entry.name for entry in pending}
        jobs = {entry.ticket.job for entry in pending}
        self._unfit &= names
        self._specs = {job: spec for job, spec in self._specs.items() if job in jobs}
        self.notes = {job: note for job, note in self.notes.items() if job in jobs}

    def _until_moved(self, job: str, states: tuple[State, ...], verb: str) -> Iterator[Entry]:
        """The job's entry, looked up anew as long as others move it first."""
        for _ in range(_MOST_TRIES):
            entry = scan(self.paths).get(job)
            if entry is None:
                raise JobNotFound(f"no job `{job}`", hint="`jobspec status` lists them")
            if entry.state not in states:
                raise TransitionRefused(
                    f"`{job}` is {entry.state}: it can't be {verb}",
                    hint=f"only {' and '.join(states)} jobs can",
                )
            yield entry

    def _move(self, source: Entry, target: Entry) -> bool:
        moved = fs.move_once(source.path(self.paths), target.path(self.paths))
        if moved:
            fs.sync_dir(self.paths.state(target.state))
        return moved

    def _look(self, limit: float) -> list[Entry]:
        now = self._clock()
        claims = in_state(self.paths, State.RUNNING)
        beats = lease.read_beats(self.paths)
        keys = {(entry.worker or "", entry.ticket.job) for entry in claims}
        idle = {(beat.worker, None) for beat in beats}
        # Two polls at most, and never so much that one gap alone could make a lease.
        cap = min(2 * self.format.heartbeat_s, limit / 2)
        self._watch.look(keys | idle, beats, now, cap)
        return claims

    def _silence_of(self, entry: Entry) -> float:
        return self._watch.silent_s(entry.worker or "", entry.ticket.job)

    def _take_back(self, entry: Entry) -> bool:
        state = budget.next_state(self.paths.job(entry.ticket.job), entry.ticket.attempt)
        target = following(entry, state)
        moved = self._move(entry, target)
        if moved:
            derived.publish(self.paths, target)
        return moved

    def _forget_idle(self, claims: list[Entry], limit: float) -> None:
        """Remove the files of workers that hold nothing and have been silent for long."""
        holders = {entry.worker for entry in claims}
        for worker in self._watch.silent_workers(_FORGOTTEN_LEASES * limit) - holders:
            self.retire(worker or "")


def _matching(jobs: list[Job], pattern: str) -> list[Job]:
    if any(letter in pattern for letter in "*?["):
        found = [job for job in jobs if fnmatch.fnmatchcase(job.id, pattern)]
    else:
        found = [job for job in jobs if job.id.startswith(pattern)]
        found = [job for job in found if job.id == pattern] or found
        if len(found) > 1:
            raise JobNotFound(f"`{pattern}` fits {len(found)} jobs", hint=f"try `{pattern}*`")
    if not found:
        raise JobNotFound(f"no job `{pattern}`", hint="`jobspec status` lists them")
    return found


def _busy(job: str) -> TransitionRefused:
    return TransitionRefused(f"`{job}` keeps moving", hint="try again")
