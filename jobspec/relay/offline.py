"""Runs on disk, for `wandb sync` from a machine with network.

A run is written once, when its job has ended. `wandb sync` appends, so a second file of one run, or
the same file twice, would double its rows. A run appears below `ROOT/relay/offline/` by one rename.
If its job is retried later, that gets a run with another id.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jobspec.errors import JobspecError
from jobspec.queue.job import Job
from jobspec.records.base import FINAL
from jobspec.relay import tracked_run
from jobspec.relay.client import ClientProcess, Refused
from jobspec.relay.cursor import Cursor, Cursors, SentRows
from jobspec.relay.sync import AXES, CHUNK
from jobspec.relay.tracked_run import DIGEST, RelayError, TrackedRun
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

_FLUSHED_S = 30.0  # seen: under a second, on two cores with a load of 20
_LOOK_S = 0.1


class Offline:
    """Writes the runs that are not written yet."""

    def __init__(self, root: RootPaths, client: ClientProcess, say: Callable[[str], None]) -> None:
        self.dir = root.relay_offline
        fs.make_dir(self.dir)
        self._cursors = Cursors(root, "offline")
        self._client = client
        self._say = say

    def write(self, jobs: list[Job], heartbeat: Callable[[], None]) -> list[Path]:
        """Write the runs of the jobs that have ended; returns the new directories."""
        written: list[Path] = []
        for job in jobs:
            if job.state not in FINAL:
                continue
            heartbeat()  # before each job: without the lock nothing more may be written
            try:
                written += self._write_job(job)
            except (JobspecError, OSError) as error:
                self._say(f"{job.id}: {error}")
        return written

    def path(self, run: TrackedRun, generation: int) -> Path:
        """The directory of a run, with a name that `wandb sync` looks for."""
        before, _, time_of_day = run.name.rpartition("_")
        day = before.rpartition("_")[2].replace("-", "")
        id = run.id(generation)
        return self.dir / f"offline-run-{day}_{time_of_day.replace('-', '')}-{id}"

    def written(self, job: Job) -> Iterator[tuple[TrackedRun, Path]]:
        """The job's runs and the files that hold them."""
        cursor = self._cursors.load(job.id)
        for run in filter(tracked_run.is_due, tracked_run.runs_of(job)):
            sent = cursor.runs.get(run.kind, SentRows())
            yield run, self.path(run, sent.generation) / f"run-{run.id(sent.generation)}.wandb"

    def _write_job(self, job: Job) -> Iterator[Path]:
        cursor = self._cursors.load(job.id)
        if (cursor.state, cursor.attempt) == (job.state, job.attempt):
            return
        kept = dict(cursor.runs)
        for run in filter(tracked_run.is_due, tracked_run.runs_of(job)):
            sent = kept.get(run.kind, SentRows())
            if sent.digest == run.digest():
                continue
            if sent.digest:
                sent = sent.restarted()
            path = self.path(run, sent.generation)
            if not fs.exists(path):
                self._write(run, sent.generation, path)
                yield path
            kept[run.kind] = sent.assign(run.rows).changed(digest=run.digest())
            self._cursors.save(Cursor(job=job.id, runs=kept))
        self._cursors.save(Cursor(job=job.id, state=job.state, attempt=job.attempt, runs=kept))

    def complete(self, file: Path) -> int:
        """Wait until a file is complete, and return its number of rows.

        wandb's own process still writes after `finish`. The run's end is its last record.
        """
        deadline, rows = time.monotonic() + _FLUSHED_S, 0
        while time.monotonic() < deadline:
            with contextlib.suppress(Refused):  # the file has no header yet
                content = self._client.ask("read", path=str(file))
                rows = len(content["rows"])
                if content["ended"]:
                    return rows
            time.sleep(_LOOK_S)
        raise RelayError(f"the client did not complete its file, which has {rows} rows")

    def _write(self, run: TrackedRun, generation: int, path: Path) -> None:
        id = run.id(generation)
        facts, axes = run.attributes(), AXES[run.kind]
        self._client.ask("open", id=id, facts=facts, config=run.config, axes=axes, offline=True)
        for first in range(0, len(run.rows), CHUNK):
            rows = [row.values for row in run.rows[first : first + CHUNK]]
            self._client.ask("rows", id=id, first=first, rows=rows)
        failed, summary = run.end in ("failed", "preempted"), run.summary | {DIGEST: run.digest()}
        self._client.ask("close", id=id, summary=summary, exit_code=int(failed), preempted=False)
        # Directory names begin with a time; an earlier one may have been left unfinished.
        file = max(self._client.dir.glob(f"wandb/offline-run-*-{id}/run-{id}.wandb"))
        arrived = self.complete(file)
        if arrived != len(run.rows):
            hint = "the next relay writes the run again"
            raise RelayError(f"the client wrote {arrived} of {len(run.rows)} rows", hint=hint)
        with fs.staged_dir(path, {file.name: (file.read_bytes(), 0o644)}) as staged:
            fs.place_dir(staged, path)
        fs.sync_dir(path.parent)
