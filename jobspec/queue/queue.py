"""The queue: jobs, their states and their workers in a plain shared directory.

There is no server and no lock. The directory that an entry is in is the state of its job, and every
transition is one `rename`. Opening a queue starts no process. The queue stays valid if any process
is killed at any point.

    queue = Queue.create("jobspec-root")
    job = queue.enqueue(spec)
    claim = queue.claim("node7-0123456789abcdef")
    claim.finish("succeeded", result)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jobspec.errors import JobspecError, SpecError
from jobspec.queue import admission, heartbeat, links, selectors, worker_registry
from jobspec.queue.entries import Entry, garbage_collection_paused, list_entries, next_entry, scan
from jobspec.queue.job import Job
from jobspec.queue.reaper import Reaper
from jobspec.queue.root import create_root, group_allowed, open_root
from jobspec.queue.worker_registry import WorkerSeen
from jobspec.records.base import State
from jobspec.records.queue_files import Hold, Quarantined
from jobspec.records.worker import WorkerRecord
from jobspec.spec import rules
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths, Ticket

_SCANNED_S = 30.0
# Modules that move jobs are imported in the methods that need them, so that `status` starts fast.
if TYPE_CHECKING:
    from jobspec.queue.candidates import Candidates
    from jobspec.queue.claim import Claim
    from jobspec.queue.fsck import Repairs


class Queue:
    """The queue in one root. Keep the object: it counts how long each worker has been silent.

    Args:
        root: the root directory.
        allow_group: accept directories and files that members of the group may write to or own;
            the default is given by the environment variable `JOBSPEC_ALLOW_GROUP`.
        write: False opens the root for reading alone, as any user may who can read it.
        clock: monotonic seconds, for counting silence.

    Raises:
        DiskFull: the root's filesystem is read-only.
        RootError: the root is missing, has another layout, is not writable, or others may write
            to it.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        allow_group: bool | None = None,
        write: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.paths = RootPaths(Path(root).absolute())
        group = group_allowed() if allow_group is None else allow_group
        self.format = open_root(self.paths, group=group, write=write)
        self._owned = not group
        self._token = os.urandom(8).hex()
        self._clock = clock
        self._reaper = Reaper(self.paths, self.format.heartbeat_s, clock)
        self._writers: dict[str, heartbeat.HeartbeatWriter] = {}
        self._unconfirmed: dict[str, Entry] = {}
        self._scanned: Collection[str] = ()
        self._scanned_at = float("-inf")
        self.was_held = False  # whether a hold kept the last `claim` from a job that fits

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
        """Create the missing parts of the root and open it. An existing FORMAT is not changed."""
        group = group_allowed() if allow_group is None else allow_group
        paths = RootPaths(Path(root).absolute())
        create_root(paths, heartbeat_s=heartbeat_s, lease_s=lease_s, group=group)
        return cls(root, allow_group=allow_group, clock=clock)

    # Finding jobs

    def jobs(self, state: State | str | None = None) -> list[Job]:
        """List all jobs, or those in one state, in claim order. Reads only file names."""
        wanted = None if state is None else State(state)
        with garbage_collection_paused():
            entries = sorted(scan(self.paths).values(), key=lambda entry: entry.order)
            return [Job(e, self.paths) for e in entries if wanted is None or e.state is wanted]

    def job(self, selector: str) -> Job:
        """Find the job with this id or unique prefix. Raises JobNotFound."""
        return selectors.find_one(self.jobs(), selector)

    def select(self, patterns: Iterable[str], state: State | str | None = None) -> list[Job]:
        """List the jobs that match ids, unique prefixes or globs; without patterns, all jobs.

        Args:
            state: only jobs in this state.

        Raises:
            JobNotFound: a pattern matches no job, or a prefix matches several.
        """
        wanted = None if state is None else State(state)
        jobs, given = self.jobs(), list(patterns)
        chosen = selectors.find_all(jobs, given) if given else jobs
        return [job for job in chosen if wanted is None or job.state is wanted]

    # Transitions

    def enqueue(self, spec: JobSpec, priority: int = 50, *, checked: bool = False) -> Job:
        """Create a job from a spec with `data.sha256`. Enqueueing the same spec again does nothing.

        Args:
            checked: the spec was checked by `jobspec.checks`; do not check it again.

        Returns:
            The job. If it existed before, `already` is set and `state` is its present state.

        Raises:
            DiskFull: no job was created, and no partial files are left.
        """
        from jobspec.queue import enqueue, fsck
        from jobspec.spec import secrets

        if not checked:
            rules.check(spec)
            secrets.refuse(spec)
        job, ticket = enqueue.publish(self.paths, spec, priority, self._entry_without_directory)
        if ticket is not None:
            return Job(Entry(State.PENDING, ticket), self.paths)
        entry = scan(self.paths).get(job) or fsck.repair_job(self.paths, job)
        if entry is None:
            raise JobspecError(f"`{job}` has no entry", hint="run `jobspec fsck`")
        return Job(entry, self.paths, already=True)

    def claim(
        self,
        worker: str,
        fits: Callable[[JobSpec], bool] = lambda spec: True,
        now: Callable[[Ticket], bool] = lambda ticket: True,
    ) -> Claim | None:
        """Claim one pending job that fits, unless there is a hold.

        Claims in quick succession from a deep queue reuse one listing for two seconds. A job with a
        higher priority that arrives in between is claimed after that.

        Args:
            worker: this process's own worker id (see `heartbeat.new_worker_id`).
            fits: whether this worker can run the job. It is called once for each entry; `False` is
                remembered until the entry changes.
            now: whether to claim this entry now; called each time for entries that fit.

        Returns:
            The claim, with its spec checked and its attempt's directory made; None if no job fits.

        Raises:
            OSError: the root does not answer. The next call checks whether a claim was made.
            DiskFull: the claim was returned, or the next call checks whether it was made.
        """
        from jobspec.queue import acquire

        admission.validate_worker(worker)
        unconfirmed = self._unconfirmed.pop(worker, None)
        if unconfirmed is not None and fs.exists(unconfirmed.path(self.paths)):
            # Tried once more only: if it fails again, no heartbeat names the job, so it is reaped.
            claim = self._complete_claim(unconfirmed)
            if claim is not None:
                return claim
        self.was_held = False
        for number, entry in enumerate(self._candidates.select(fits, now, reuse=True)):
            if number == 0 and fs.exists(self.paths.hold):
                self.was_held = True
                return None
            running = Entry(State.RUNNING, entry.ticket, worker)
            self._unconfirmed[worker] = running
            read = self._candidates.recently_read(entry)
            moved = acquire.move_to_running(self.paths, entry, running)
            moved = moved and self._candidates.share.keep(running)
            claim = self._complete_claim(running, read) if moved else None
            self._unconfirmed.pop(worker, None)
            if claim is not None:
                return claim
        return None

    def has_work(self, fits: Callable[[JobSpec], bool] = lambda spec: True) -> bool:
        """Whether a worker should stay: a pending job fits, or a running one may be requeued."""
        # RACE: a job that is requeued after the first listing and before the second is in neither.
        for _ in range(2):
            pending = next(self._candidates.select(fits), None) is not None
            if pending or list_entries(self.paths, State.RUNNING):
                return True
        return False

    @property
    def notes(self) -> dict[str, str]:
        """Pending jobs that only another version or user can run, each with the reason."""
        return self._candidates.notes

    def cancel(self, job: str) -> Job:
        """Cancel a pending or running job. Its worker notices that the claim is lost.

        Raises:
            TransitionRefused: the job has ended already.
        """
        from jobspec.queue import transitions

        return transitions.cancel(self.paths, job)

    def retry(self, job: str) -> Job:
        """Requeue a failed or cancelled job with new retry budgets. Raises TransitionRefused."""
        from jobspec.queue import transitions

        return transitions.retry(self.paths, job)

    def prioritize(self, job: str, priority: int) -> Job:
        """Change the priority of a pending job. Raises TransitionRefused."""
        from jobspec.queue import enqueue, transitions

        enqueue.check_priority(priority)
        return transitions.prioritize(self.paths, job, priority)

    def publish_links(self, job: str) -> None:
        """Make a succeeded job's links `result.json` and `final_model` again."""
        entry = scan(self.paths).get(job)
        if entry is not None:
            links.publish_links(self.paths, entry)

    def fsck(self) -> Repairs:
        """Restore missing entries and delete temporary files of dead processes."""
        from jobspec.queue import fsck

        return fsck.fsck(self.paths)

    # Workers

    def heartbeat(
        self, worker: str, record: WorkerRecord | None = None, job: str | None = None
    ) -> None:
        """Send a heartbeat. Call it before the first claim and then regularly.

        Args:
            record: replaces `<worker>.json`; a full disk prevents that, but not the heartbeat.
            job: the job that the worker holds.

        Raises:
            OSError: the root does not answer.
        """
        writer = self._writers.get(admission.validate_worker(worker))
        if writer is None:
            writer = self._writers[worker] = heartbeat.HeartbeatWriter(self.paths, worker)
        writer.send(None if job is None else admission.validate_job(job))
        if record is not None:
            heartbeat.write_record(self.paths, worker, record)

    def retire(self, worker: str) -> None:
        """Remove a worker's files in `queue/workers/` after it exited or died."""
        heartbeat.remove_files(self.paths, admission.validate_worker(worker))
        self._writers.pop(worker, None)

    def workers(self) -> list[WorkerSeen]:
        """List the workers that have files in `queue/workers/`."""
        return worker_registry.workers(self.paths, self._reaper)

    def reap(
        self, lease_s: float | None = None, *, worker: str | None = None, now: bool = False
    ) -> list[str]:
        """Revoke the claims of dead workers. Call it regularly: it counts silence between calls.

        Args:
            lease_s: seconds of silence after which a claim is revoked; by default from FORMAT.
            worker: revoke the claims of this worker only; needs `now`.
            now: do not wait for a lease, because `worker` is known to be dead.

        Returns:
            The jobs moved: to `pending`; to `failed` if a retry budget was used up; to
            `succeeded` if only the commit was missing.

        Raises:
            OSError: the root does not answer; no silence was counted and no claim revoked.
        """
        if now != (worker is not None):
            raise JobspecError("`worker` and `now` go together", hint="give both or neither")
        if worker is not None:
            return self._reaper.reap_worker(admission.validate_worker(worker))
        return self._reaper.reap(self.format.lease_s if lease_s is None else lease_s)

    def claims_seen(self) -> list[Entry]:
        """The claims in the listing of the last `reap`. Reads no file."""
        return self._reaper.claims

    def silent_holders(self, at_least_s: float) -> set[str]:
        """Workers whose claims had been silent this long at the last `reap`. Reads no file."""
        return self._reaper.silent_holders(at_least_s)

    def drain(self, worker: str) -> None:
        """Ask a worker to finish its job and to claim no other."""
        admission.drain(self.paths, worker)

    def is_draining(self, worker: str) -> bool:
        """Whether this worker was asked to drain."""
        return admission.is_draining(self.paths, worker)

    def saw_drain(self, worker: str) -> bool:
        """Like `is_draining`, but from the listing of the last `reap`. Reads no file."""
        return self._reaper.saw_drain(worker)

    # Admission

    def hold(self, reason: str = "", by: str = "") -> None:
        """Stop all claims until `release`. Running jobs continue."""
        admission.hold(self.paths, reason, by)

    def release(self) -> None:
        """End a hold."""
        admission.release(self.paths)

    def on_hold(self) -> Hold | None:
        """The hold with its reason; None if there is none."""
        return admission.on_hold(self.paths)

    def quarantine(
        self, host: str, reason: str, ttl_s: float, by: str = "", *, certain: bool = True
    ) -> bool:
        """Stop claims by workers on a host for `ttl_s` seconds.

        Args:
            host: the host's name.
            reason: shown to users.
            ttl_s: seconds until the quarantine expires.
            by: who asked for it.
            certain: False for a suspicion. It is ignored if it would keep the workers of more
                than half of the hosts from claiming: then the jobs are more likely the cause.

        Returns:
            Whether the host is quarantined.
        """
        if not certain:
            barred = self.quarantined().keys() | {host}
            if worker_registry.too_many(self.workers(), barred, host):
                return False
        admission.quarantine(self.paths, host, reason=reason, by=by, ttl_s=ttl_s)
        return True

    def quarantined(self) -> dict[str, Quarantined]:
        """Find all quarantined hosts, each with its reason."""
        return admission.quarantined(self.paths)

    def quarantined_host(self, host: str) -> Quarantined | None:
        """The quarantine of one host; None if it has none. Reads one file at most."""
        return admission.read_quarantine(self.paths, host)

    def clear(self, host: str) -> None:
        """End a host's quarantine."""
        admission.clear(self.paths, host)

    def _entry_without_directory(self, job: str) -> bool:
        """Whether a job without a directory has an entry: its directory was deleted.

        One scan answers for all that is enqueued within half a minute.
        """
        if self._clock() - self._scanned_at > _SCANNED_S:
            self._scanned, self._scanned_at = scan(self.paths).keys(), self._clock()
        return job in self._scanned

    @cached_property
    def _candidates(self) -> Candidates:
        from jobspec.queue.candidates import Candidates

        return Candidates(self.paths, owned=self._owned, clock=self._clock)

    def _complete_claim(self, running: Entry, read: bytes | None = None) -> Claim | None:
        from jobspec.queue import acquire
        from jobspec.queue.claim import Claim

        data = acquire.complete_claim(
            self.paths, running, self._token, owned=self._owned, read=read
        )
        if data is None:
            return None
        try:
            spec = self._candidates.spec(running, data)
        except SpecError:  # written by a later version; it looked damaged before the claim
            fs.move_once(
                running.path(self.paths), next_entry(running, State.PENDING).path(self.paths)
            )
            return None
        return Claim(running, self.paths, spec)
