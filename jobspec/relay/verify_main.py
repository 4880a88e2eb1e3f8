"""`relay --verify`: asks for what W&B has of each run, or reads the offline runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from jobspec.queue.entries import Job
from jobspec.queue.queue import Queue
from jobspec.relay import wandb_run
from jobspec.relay.client import Link, connect
from jobspec.relay.cursor import Cursors, Sent, target
from jobspec.relay.offline import Offline
from jobspec.relay.online import Options
from jobspec.relay.verify import Verdict, pages, verdict
from jobspec.relay.wandb_run import DIGEST, Run


def audit(queue: Queue, jobs: list[Job], *, offline: bool, options: Options) -> list[Verdict]:
    """Hold every run of these jobs against the files. Raises RelayError without wandb or key."""
    link = connect(offline=offline)
    try:
        if offline:
            return _files(Offline(queue.paths, link, lambda text: None), link, jobs)
        return [
            _online(queue, link, run, options)
            for job in jobs
            for run in wandb_run.of_job(job, settled=options.settled)
            if wandb_run.is_worth(run)
        ]
    finally:
        link.kill()


def _online(queue: Queue, link: Link, run: Run, options: Options) -> Verdict:
    entity = options.entity or run.entity or link.hello["entity"]
    project = options.project or run.project
    store = Cursors(queue.paths, target(link.hello["base_url"], entity, project))
    sent = store.load(run.job).runs.get(run.kind, Sent())
    id, said = run.id(sent.generation), ""
    if run.end is None:  # rows that were not sent yet are not missing
        run = replace(run, sendable=min(run.sendable, sent.assigned))

    def ask(first: int, beyond: int) -> list[dict[str, Any]] | None:
        nonlocal said
        part = {"first": first, "beyond": beyond}
        found = link.ask("history", entity=entity, project=project, name=id, **part)["run"]
        if found is None:
            return None
        said = str(found["summary"].get(DIGEST))
        return found["rows"]

    found = verdict(run, id, pages(ask, run.sendable))
    if run.end is None or found.note or said == run.digest():
        return found
    return msgspec.structs.replace(found, note="the summary is not the last one")


def _files(offline: Offline, link: Link, jobs: list[Job]) -> list[Verdict]:
    found: list[Verdict] = []
    for job in jobs:
        for run, path in offline.written(job):
            there = path.exists()
            rows = link.ask("read", path=str(path))["rows"] if there else None
            found.append(verdict(run, path.stem.removeprefix("run-"), rows))
    return found
