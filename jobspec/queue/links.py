"""Shortcuts in a succeeded job's directory: `result.json` and `final_model`.

They follow from the entry in `queue/succeeded/` and can be remade from it by anybody at any time.
"""

from __future__ import annotations

from collections.abc import Container

from jobspec.queue.entries import Entry
from jobspec.records.base import State
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths


def publish(root: RootPaths, entry: Entry, known: Container[str] = ()) -> None:
    """Point the job's shortcuts at its succeeded attempt. An entry of another state is ignored.

    `known` are names in the attempt that its caller has just published, and nobody need look for.
    """
    if entry.state is not State.SUCCEEDED:
        return
    job = root.job(entry.ticket.job)
    attempt = job.attempt(entry.ticket.attempt)
    for link, target in ((job.result, attempt.result), (job.final_model, attempt.final_model)):
        if target.name in known or fs.exists(target):
            fs.link_to(link, str(target).removeprefix(f"{job.dir}/"))
