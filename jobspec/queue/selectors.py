"""Selects jobs by id, by a unique prefix of an id, or by a glob."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from jobspec.errors import JobNotFound
from jobspec.queue.job import Job


def find_one(jobs: Iterable[Job], selector: str) -> Job:
    """Find the job with this id or unique prefix. Raises JobNotFound."""
    matches = [job for job in jobs if job.id.startswith(selector)]
    matches = [job for job in matches if job.id == selector] or matches
    if not matches:
        raise JobNotFound(f"no job `{selector}`", hint="`jobspec status` lists them")
    if len(matches) > 1:
        examples = ", ".join(job.id for job in matches[:4]) + ("…" if len(matches) > 4 else "")
        raise JobNotFound(
            f"`{selector}` matches {len(matches)} jobs: {examples}",
            hint=f"`{selector}*` selects all of them",
        )
    return matches[0]


def find_all(jobs: Sequence[Job], patterns: Iterable[str]) -> list[Job]:
    """Find the jobs that match any pattern, without duplicates. Raises JobNotFound for no match."""
    chosen: dict[str, Job] = {}
    for pattern in patterns:
        for job in _matching(jobs, pattern):
            chosen[job.id] = job
    return list(chosen.values())


def is_glob(pattern: str) -> bool:
    """Whether a pattern is a glob rather than an id or prefix."""
    return any(letter in pattern for letter in "*?[")


def _matching(jobs: Sequence[Job], pattern: str) -> list[Job]:
    if not is_glob(pattern):
        return [find_one(jobs, pattern)]
    matches = [job for job in jobs if fnmatch.fnmatchcase(job.id, pattern)]
    if not matches:
        raise JobNotFound(f"no job `{pattern}`", hint="`jobspec status` lists them")
    return matches
