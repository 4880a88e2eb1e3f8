"""Links in the directory of a succeeded job: `result.json` and `final_model`.

They are derived from the entry in `queue/succeeded/` and can be made again at any time.
"""

from __future__ import annotations

from collections.abc import Container

from jobspec.queue.entries import Entry
from jobspec.records.base import State
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths


def publish_links(root: RootPaths, entry: Entry, known: Container[str] = ()) -> None:
    """Link to the files of the succeeded attempt. Entries of other states are ignored.

    Args:
        known: names in the attempt that exist for sure, because the caller has just written them.
    """
    if entry.state is not State.SUCCEEDED:
        return
    job = root.job(entry.ticket.job)
    attempt = job.attempt(entry.ticket.attempt)
    for link, target in ((job.result, attempt.result), (job.final_model, attempt.final_model)):
        if target.name in known or fs.exists(target):
            fs.link_to(link, str(target).removeprefix(f"{job.dir}/"))
