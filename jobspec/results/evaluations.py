"""Finds the attempt of a job that was evaluated."""

from __future__ import annotations

from jobspec.errors import BenchmarkError
from jobspec.queue.job import Job
from jobspec.records.evaluation import benchmark_dirs
from jobspec.storage.layout import AttemptPaths


def evaluated_attempt(job: Job) -> AttemptPaths:
    """Find the newest attempt of a job that started an evaluation.

    Raises:
        BenchmarkError: no attempt did so.
    """
    for number in range(job.attempt, 0, -1):
        attempt = job.paths.attempt(number)
        if benchmark_dirs(attempt.eval):
            return attempt
    raise BenchmarkError(
        f"`{job.id}` has no samples: it is {job.state}",
        file=job.paths.dir,
        hint="`jobspec status` shows what has run",
    )
