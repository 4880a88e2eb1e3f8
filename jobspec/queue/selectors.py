"""Jobs by what people type: an id, the unique beginning of one, a glob, a state."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from jobspec.errors import JobNotFound
from jobspec.queue.entries import Job


def one(jobs: Iterable[Job], selector: str) -> Job:
    """The job of that id or unique prefix. Raises JobNotFound."""
    found = [job for job in jobs if job.id.startswith(selector)]
    found = [job for job in found if job.id == selector] or found
    if not found:
        raise JobNotFound(f"no job `{selector}`", hint="`jobspec status` lists them")
    if len(found) > 1:
        some = ", ".join(job.id for job in found[:4]) + ("…" if len(found) > 4 else "")
        raise JobNotFound(
            f"`{selector}` fits {len(found)} jobs: {some}", hint=f"all of them are `{selector}*`"
        )
    return found[0]


def some(jobs: Sequence[Job], patterns: Iterable[str]) -> list[Job]:
    """The jobs that the patterns name, each once. Raises JobNotFound for one that names none."""
    chosen: dict[str, Job] = {}
    for pattern in patterns:
        for job in _matching(jobs, pattern):
            chosen[job.id] = job
    return list(chosen.values())


def is_glob(pattern: str) -> bool:
    """Whether a pattern means whatever fits it, not one job."""
    return any(letter in pattern for letter in "*?[")


def _matching(jobs: Sequence[Job], pattern: str) -> list[Job]:
    if not is_glob(pattern):
        return [one(jobs, pattern)]
    found = [job for job in jobs if fnmatch.fnmatchcase(job.id, pattern)]
    if not found:
        raise JobNotFound(f"no job `{pattern}`", hint="`jobspec status` lists them")
    return found
