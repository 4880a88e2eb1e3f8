"""Runs on disk, for `wandb sync` from a machine with network.

A run is written once, whole, when its job has ended: W&B's sync appends, so that a second file of
one run, or the same file twice, would double its rows. It appears below `ROOT/relay/offline/` by
one rename. A job that was taken up again afterwards gets a run of another id.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jobspec.errors import JobspecError
from jobspec.queue.entries import Job
from jobspec.records.base import FINAL
from jobspec.relay import wandb_run
from jobspec.relay.client import Link, Refused
from jobspec.relay.cursor import Cursor, Cursors, Sent
from jobspec.relay.sync import AXES, CHUNK
from jobspec.relay.wandb_run import DIGEST, RelayError, Run
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

_FLUSHED_S = 30.0  # seen: under a second, on two cores with a load of 20
_LOOK_S = 0.1


class Offline:
    """Writes what is not written yet."""

    def __init__(self, root: RootPaths, link: Link, say: Callable[[str], None]) -> None:
        self.dir = root.relay_offline
        fs.make_dir(self.dir)
        self._cursors = Cursors(root, "offline")
        self._link = link
        self._say = say

    def write(self, jobs: list[Job], beat: Callable[[], None]) -> list[Path]:
        """Write the runs of the jobs that have ended; the new directories."""
        made: list[Path] = []
        for job in jobs:
            if job.state not in FINAL:
                continue
            beat()  # before each: whoever was fenced meanwhile must write nothing more
            try:
                made += self._job(job)
            except (JobspecError, OSError) as error:
                self._say(f"{job.id}: {error}")
        return made

    def path(self, run: Run, generation: int) -> Path:
        """Where a run is, or will be: in the form of name that `wandb sync` looks for."""
        stamp = run.name.rpartition("_")
        day = stamp[0].rpartition("_")[2].replace("-", "")
        id = run.id(generation)
        return self.dir / f"offline-run-{day}_{stamp[2].replace('-', '')}-{id}"

    def written(self, job: Job) -> Iterator[tuple[Run, Path]]:
        """The job's runs and the files that hold them."""
        cursor = self._cursors.load(job.id)
        for run in filter(wandb_run.is_worth, wandb_run.of_job(job)):
            sent = cursor.runs.get(run.kind, Sent())
            yield run, self.path(run, sent.generation) / f"run-{run.id(sent.generation)}.wandb"

    def _job(self, job: Job) -> Iterator[Path]:
        cursor = self._cursors.load(job.id)
        if (cursor.state, cursor.attempt) == (job.state, job.attempt):
            return
        kept = dict(cursor.runs)
        for run in filter(wandb_run.is_worth, wandb_run.of_job(job)):
            sent = kept.get(run.kind, Sent())
            if sent.told == run.digest():
                continue
            if sent.told:
                sent = sent.anew()
            path = self.path(run, sent.generation)
            if not fs.exists(path):
                self._write(run, sent.generation, path)
                yield path
            kept[run.kind] = sent.assign(run.rows).changed(told=run.digest())
            self._cursors.save(Cursor(job=job.id, runs=kept))
        self._cursors.save(Cursor(job=job.id, state=job.state, attempt=job.attempt, runs=kept))

    def whole(self, file: Path) -> int:
        """The rows of a file once it is whole: the client's core writes on after `finish`.

        The end is its last record, behind rows and summary.
        """
        ends, rows = time.monotonic() + _FLUSHED_S, 0
        while time.monotonic() < ends:
            with contextlib.suppress(Refused):  # not even its head is there
                found = self._link.ask("read", path=str(file))
                rows = len(found["rows"])
                if found["ended"]:
                    return rows
            time.sleep(_LOOK_S)
        raise RelayError(f"the client did not end its file, with {rows} rows in it")

    def _write(self, run: Run, generation: int, path: Path) -> None:
        id = run.id(generation)
        facts, axes = run.facts(), AXES[run.kind]
        self._link.ask("open", id=id, facts=facts, config=run.config, axes=axes, offline=True)
        for first in range(0, len(run.rows), CHUNK):
            rows = [row.values for row in run.rows[first : first + CHUNK]]
            self._link.ask("rows", id=id, first=first, rows=rows)
        failed, summary = run.end in ("failed", "preempted"), run.summary | {DIGEST: run.digest()}
        self._link.ask("close", id=id, summary=summary, exit_code=int(failed), preempted=False)
        # The newest, by the time in its directory's name: one may have been left unfinished.
        file = max(self._link.dir.glob(f"wandb/offline-run-*-{id}/run-{id}.wandb"))
        found = self.whole(file)
        if found != len(run.rows):
            hint = "the next relay writes the run again"
            raise RelayError(f"the client wrote {found} of {len(run.rows)} rows", hint=hint)
        with fs.staged_dir(path, {file.name: (file.read_bytes(), 0o644)}) as staged:
            fs.place_dir(staged, path)
        fs.sync_dir(path.parent)
