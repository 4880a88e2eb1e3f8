"""Shortcuts in a succeeded job's directory: `result.json` and `final_model`.

They follow from the entry in `queue/succeeded/` and can be remade from it by anybody at any time.
"""

from __future__ import annotations

from jobspec import fs
from jobspec.entries import Entry
from jobspec.paths import RootPaths
from jobspec.record import State


def publish(root: RootPaths, entry: Entry) -> None:
    """Point the job's shortcuts at its succeeded attempt. An entry of another state is ignored."""
    if entry.state is not State.SUCCEEDED:
        return
    job = root.job(entry.ticket.job)
    attempt = job.attempt(entry.ticket.attempt)
    for link, target in ((job.result, attempt.result), (job.final_model, attempt.final_model)):
        if fs.exists(target):
            fs.link_to(link, str(target).removeprefix(f"{job.dir}/"))
