"""The queue: what is to be done, who does it, what came of it, on a plain shared directory.

No server and no lock: the directory an entry is in is its job's state, and one `rename` is the only
transition. Opening a queue starts nothing; killing any process at any point leaves it valid.

    queue = Queue.create("jobspec-root")
    job = queue.enqueue(spec)
    claim = queue.claim("node7-0123456789abcdef")
    claim.finish("succeeded", result)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jobspec.errors import JobspecError, SpecError
from jobspec.queue import admission, links, selectors, worker_registry
from jobspec.queue import heartbeat as lease
from jobspec.queue import root as roots
from jobspec.queue.entries import Entry, Job, following, in_state, scan, uncollected
from jobspec.queue.reaper import Reaper
from jobspec.queue.worker_registry import WorkerSeen
from jobspec.records.base import State
from jobspec.records.queue_files import Hold, Quarantined
from jobspec.records.worker import WorkerRecord
from jobspec.spec import rules
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths, Ticket

# What moves jobs is imported by the methods that need it: who only looks, as `status`, starts fast.
if TYPE_CHECKING:
    from jobspec.queue.candidates import Candidates
    from jobspec.queue.claim import Claim
    from jobspec.queue.fsck import Repairs


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
        group = roots.group_allowed() if allow_group is None else allow_group
        self.format = roots.open_root(self.paths, group=group)
        self._owned = not group
        self._token = os.urandom(8).hex()
        self._clock = clock
        self._reaper = Reaper(self.paths, self.format.heartbeat_s, clock)
        self._pulses: dict[str, lease.Pulse] = {}
        self._unsure: dict[str, Entry] = {}
        self.was_held = False  # whether the last `claim` left a job that fits because of a hold

    @classmethod
    def create(
        cls,
        root: str | Path,
        heartbeat_s: float = 15.0,
        lease_s: float = 150.0,
        *,
        allow_group: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Queue:
        """Make what is missing of the root, and open it. An existing FORMAT is left as it is."""
        group = roots.group_allowed() if allow_group is None else allow_group
        paths = RootPaths(Path(root).absolute())
        roots.create(paths, heartbeat_s=heartbeat_s, lease_s=lease_s, group=group)
        return cls(root, allow_group=allow_group, clock=clock)

    # Jobs, to be looked at

    def jobs(self, state: State | str | None = None) -> list[Job]:
        """All jobs, in claim order, or those in one state. Reads names, no files."""
        wanted = None if state is None else State(state)
        with uncollected():
            entries = sorted(scan(self.paths).values(), key=lambda entry: entry.order)
            return [Job(e, self.paths) for e in entries if wanted is None or e.state is wanted]

    def job(self, selector: str) -> Job:
        """The one job of that id or unique prefix. Raises JobNotFound."""
        return selectors.one(self.jobs(), selector)

    def select(self, patterns: Iterable[str], state: State | str | None = None) -> list[Job]:
        """The jobs in `state` that ids, unique prefixes or globs name; all of them for no pattern.

        Raises:
            JobNotFound: a pattern names none, or a prefix several.
        """
        wanted = None if state is None else State(state)
        jobs, given = self.jobs(), list(patterns)
        chosen = selectors.some(jobs, given) if given else jobs
        return [job for job in chosen if wanted is None or job.state is wanted]

    # Transitions

    def enqueue(self, spec: JobSpec, priority: int = 50, *, checked: bool = False) -> Job:
        """Make a job of a spec whose `data.sha256` is filled in. The same spec again is a no-op.

        Args:
            checked: the spec comes from `jobspec.checks`, so its rules are not checked again.

        Returns:
            The job; `.already` says that it was there, and then `.state` where it is.

        Raises:
            DiskFull: nothing half-written stays, and there is no job.
        """
        from jobspec.queue import enqueue as publish
        from jobspec.queue import fsck as repair
        from jobspec.spec import secrets

        if not checked:
            rules.check(spec)
            secrets.refuse(spec)
        job, ticket = publish.publish(self.paths, spec, priority)
        if ticket is not None:
            return Job(Entry(State.PENDING, ticket), self.paths)
        entry = scan(self.paths).get(job) or repair.repair_job(self.paths, job)
        if entry is None:
            raise JobspecError(f"`{job}` has no entry", hint="run `jobspec fsck`")
        return Job(entry, self.paths, already=True)

    def claim(
        self,
        worker: str,
        fits: Callable[[JobSpec], bool] = lambda spec: True,
        now: Callable[[Ticket], bool] = lambda ticket: True,
    ) -> Claim | None:
        """Take one pending job that fits, if there is one and no hold.

        Claims in quick succession from a deep queue share a listing for two seconds: what came with
        a higher priority meanwhile is taken after that.

        Args:
            worker: this process's own worker id (see `lease.new_worker_id`).
            fits: whether this worker can do the job. It is asked once for each entry; `False` is
                remembered until the entry changes.
            now: whether to take this one now; asked at every look, of entries that fit.

        Returns:
            The claim, its spec checked and its attempt's directory made; None for nothing to do.

        Raises:
            OSError: the root doesn't answer. The next call looks whether a claim came of it.
            DiskFull: the claim was given back, or the next call looks for it.
        """
        from jobspec.queue import acquire

        admission.checked_worker(worker)
        unsure = self._unsure.pop(worker, None)
        if unsure is not None and fs.exists(unsure.path(self.paths)):
            # Once more, not for ever: if it fails again, nobody's beat names it, and it is reaped.
            claim = self._settle(unsure)
            if claim is not None:
                return claim
        self.was_held = False
        for number, entry in enumerate(self._candidates.candidates(fits, now, reuse=True)):
            if number == 0 and fs.exists(self.paths.hold):
                self.was_held = True
                return None
            running = Entry(State.RUNNING, entry.ticket, worker)
            self._unsure[worker] = running
            read = self._candidates.just_read(entry)
            claim = (
                self._settle(running, read) if acquire.grab(self.paths, entry, running) else None
            )
            self._unsure.pop(worker, None)
            if claim is not None:
                return claim
        return None

    def has_work(self, fits: Callable[[JobSpec], bool] = lambda spec: True) -> bool:
        """Whether a pending job fits, or one runs that may yet come back: no reason to leave."""
        pending = next(self._candidates.candidates(fits), None) is not None
        return pending or bool(in_state(self.paths, State.RUNNING))

    @property
    def notes(self) -> dict[str, str]:
        """Why pending jobs were passed over that only another version or user can do, by job."""
        return self._candidates.notes

    def cancel(self, job: str) -> Job:
        """End a pending or running job, whose worker will miss its claim.

        Raises:
            TransitionRefused: it has ended already.
        """
        from jobspec.queue import transitions

        return transitions.cancel(self.paths, job)

    def retry(self, job: str) -> Job:
        """Put a failed or cancelled job back, with its budgets anew. Raises TransitionRefused."""
        from jobspec.queue import transitions

        return transitions.retry(self.paths, job)

    def prioritize(self, job: str, priority: int) -> Job:
        """Give a pending job another priority. Raises TransitionRefused."""
        from jobspec.queue import enqueue as publish
        from jobspec.queue import transitions

        publish.check_priority(priority)
        return transitions.prioritize(self.paths, job, priority)

    def publish_derived(self, job: str) -> None:
        """Remake a succeeded job's `result.json` and `final_model` links."""
        entry = scan(self.paths).get(job)
        if entry is not None:
            links.publish(self.paths, entry)

    def fsck(self) -> Repairs:
        """Give jobs without an entry theirs back, and sweep what dead writers left."""
        from jobspec.queue import fsck as repair

        return repair.fsck(self.paths)

    # Workers

    def heartbeat(
        self, worker: str, record: WorkerRecord | None = None, job: str | None = None
    ) -> None:
        """Show that `worker` lives and holds `job`. Once before the first claim, then regularly.

        A `record` replaces `<worker>.json`; a full disk stops that, but not the beat.

        Raises:
            OSError: the root doesn't answer.
        """
        pulse = self._pulses.get(admission.checked_worker(worker))
        if pulse is None:
            pulse = self._pulses[worker] = lease.Pulse(self.paths, worker)
        pulse.beat(None if job is None else admission.checked_job(job))
        if record is not None:
            lease.write_record(self.paths, worker, record)

    def retire(self, worker: str) -> None:
        """Remove a worker's liveness files: it leaves of its own accord, or is long dead."""
        lease.remove_files(self.paths, admission.checked_worker(worker))
        self._pulses.pop(worker, None)

    def workers(self) -> list[WorkerSeen]:
        """Everybody who has files in `queue/workers/`."""
        return worker_registry.workers(self.paths, self._reaper)

    def reap(
        self, lease_s: float | None = None, *, worker: str | None = None, now: bool = False
    ) -> list[str]:
        """Take dead workers' claims back. Call it again and again: it counts what it saw.

        Args:
            lease_s: silence after which a claim is dead; by default what FORMAT says.
            worker: take this worker's claims; goes with `now`.
            now: without waiting for any silence: somebody knows that `worker` is dead.

        Returns:
            The jobs moved: to `pending`; to `failed` where a budget was used up; to `succeeded`
            where all was done but the commit.

        Raises:
            OSError: the root doesn't answer; nothing was counted, nobody was judged.
        """
        if now != (worker is not None):
            raise JobspecError("a worker is reaped by name and at once", hint="give both, or none")
        if worker is not None:
            return self._reaper.reap_worker(admission.checked_worker(worker))
        return self._reaper.reap(self.format.lease_s if lease_s is None else lease_s)

    def silent_holders(self, at_least_s: float) -> set[str]:
        """Workers whose claims had been silent for so long at the last `reap`: costs no call."""
        return self._reaper.silent_holders(at_least_s)

    def drain(self, worker: str) -> None:
        """Ask a worker to finish its job and claim nothing more."""
        admission.drain(self.paths, worker)

    def is_draining(self, worker: str) -> bool:
        """Whether somebody asked this worker to drain."""
        return admission.is_draining(self.paths, worker)

    def saw_drain(self, worker: str) -> bool:
        """Like `is_draining`, as of the last `reap`, whose listing showed it: costs no call."""
        return self._reaper.saw_drain(worker)

    # Setting aside

    def hold(self, reason: str = "", by: str = "") -> None:
        """Let nobody claim until `release`; what runs, runs on."""
        admission.hold(self.paths, reason, by)

    def release(self) -> None:
        """End a hold."""
        admission.release(self.paths)

    def on_hold(self) -> Hold | None:
        """Why nobody may claim; None where everybody may."""
        return admission.on_hold(self.paths)

    def quarantine(
        self, host: str, reason: str, ttl_s: float, by: str = "", *, certain: bool = True
    ) -> bool:
        """Set a host aside for `ttl_s` seconds.

        Args:
            host: its name.
            reason: in words, for people.
            ttl_s: when the mark expires.
            by: who says so.
            certain: False for a suspicion, which is not followed once it would set aside more than
                half of the hosts with workers: then it's the jobs that are bad.

        Returns:
            Whether the host is set aside.
        """
        if not certain:
            hosts = {seen.record.host for seen in self.workers() if seen.beating}
            aside_now = (self.quarantined().keys() & hosts) | {host}
            if 2 * len(aside_now) > len(hosts):
                return False
        admission.quarantine(self.paths, host, reason=reason, by=by, ttl_s=ttl_s)
        return True

    def quarantined(self) -> dict[str, Quarantined]:
        """The hosts set aside now, and why."""
        return admission.quarantined(self.paths)

    def quarantined_host(self, host: str) -> Quarantined | None:
        """Why one host is set aside; None where it isn't. One call, however many are."""
        return admission.mark_on(self.paths, host)

    def clear(self, host: str) -> None:
        """Let a host work again."""
        admission.clear(self.paths, host)

    # How

    @cached_property
    def _candidates(self) -> Candidates:
        from jobspec.queue.candidates import Candidates

        return Candidates(self.paths, owned=self._owned, clock=self._clock)

    def _settle(self, running: Entry, read: bytes | None = None) -> Claim | None:
        from jobspec.queue import acquire
        from jobspec.queue.claim import Claim

        data = acquire.settle(self.paths, running, self._token, owned=self._owned, read=read)
        if data is None:
            return None
        try:
            spec = self._candidates.spec(running, data)
        except SpecError:  # a version later than ours; it looked damaged before the claim
            fs.move_once(
                running.path(self.paths), following(running, State.PENDING).path(self.paths)
            )
            return None
        return Claim(running, self.paths, spec)
