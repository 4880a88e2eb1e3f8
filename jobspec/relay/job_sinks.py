"""Which destinations each job's rows go to. A job's spec never changes, so it is read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jobspec.errors import JobspecError
from jobspec.queue.job import Job
from jobspec.spec.tracking_sinks import SINKS


class JobSinks:
    """The sinks of jobs.

    Args:
        instead: the sinks of all jobs, whatever their specs name.
    """

    def __init__(self, instead: Iterable[str] = ()) -> None:
        self._instead = tuple(instead)
        self._known: dict[str, tuple[str, ...]] = {}

    def of(self, job: Job) -> tuple[str, ...]:
        """Where the job's rows go. Raises JobspecError if its spec is unreadable."""
        if self._instead:
            return self._instead
        if job.id not in self._known:
            self._known[job.id] = job.spec.tracking.sinks
        return self._known[job.id]

    def only(self, jobs: Iterable[Job], sink: str) -> Iterator[Job]:
        """The jobs whose rows go to `sink`; those whose spec is unreadable are left out."""
        return (job for job in jobs if sink in self._readable(job))

    def named(self, jobs: Iterable[Job]) -> list[str]:
        """The sinks that these jobs name, in the order of the table."""
        found = {sink for job in jobs for sink in self._readable(job)}
        return [sink for sink in SINKS if sink in found]

    def _readable(self, job: Job) -> tuple[str, ...]:
        try:
            return self.of(job)
        except JobspecError:
            return ()
