"""Lets an idle worker generate samples for a job that another worker evaluates.

A helper is a process (`worker.samples.helper`) that runs while the worker goes on looking for jobs.
It is killed as soon as the worker has claimed one, has to stop, or the other worker's evaluation
has ended. What it held is given back. A helper that fails is only logged.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jobspec.errors import DiskFull, JobspecError
from jobspec.queue.entries import Entry
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.manifest import Manifest
from jobspec.spec import parsing
from jobspec.storage import fs
from jobspec.storage.layout import HelpPaths
from jobspec.storage.patience import at_most
from worker.launch import manifest
from worker.launch.command import phase_command
from worker.launch.environment import phase_environment
from worker.process.child import Child

if TYPE_CHECKING:
    from worker.supervisor.worker import Worker

_MODULE = "worker.samples.helper"
_MOST_ASKED = 8  # running jobs that are looked at in one turn
_GIVE_BACK_S = 1.0


class Helping:
    """The help that an idle worker gives to one job at a time.

    Args:
        worker: the worker.
        say: writes a line to its log.
    """

    def __init__(self, worker: Worker, say: Callable[[str], None]) -> None:
        self._worker = worker
        self._say = say
        self._child: Child | None = None
        self._claim: Entry | None = None  # of the worker that is helped
        self._refused: set[str] = set()  # names of claims that this worker can't help
        self._held: list[str] = []
        self._changed_at = 0.0

    @property
    def job(self) -> str | None:
        """The job that is helped now."""
        return self._claim.ticket.job if self._claim is not None else None

    def look(self, *, start: bool = True) -> None:
        """Start, watch or end the help; to be called whenever no job was found.

        Args:
            start: whether the worker may begin to help.
        """
        try:
            if self._claim is not None and not self._goes_on(self._claim):
                self.stop()
            elif self._claim is None and start:
                self._start()
        except (OSError, DiskFull) as error:
            self._worker.report(error)

    def stop(self) -> None:
        """End the help at once, and give back what the helper held."""
        child, claim, self._child, self._claim = self._child, self._claim, None, None
        if child is not None:
            child.kill()
        if claim is not None:
            with contextlib.suppress(OSError, DiskFull), at_most(_GIVE_BACK_S):
                give_back(self._held_by_me(claim))
                self._worker.send_heartbeat(helps=None)

    def _start(self) -> None:
        """Help the first of the running jobs that shares chunks and that this worker can help."""
        claims = self._worker.queue.claims_seen()
        asked = [claim for claim in claims if claim.name not in self._refused]
        for claim in random.sample(asked, min(len(asked), _MOST_ASKED)):
            share = HelpPaths.of_helper(self._held_by_me(claim))
            if not fs.list_names(share.open) or fs.exists(self._worker.queue.paths.hold):
                continue
            if not self._can_help(claim):
                self._refused.add(claim.name)
                continue
            self._begin(claim)
            return

    def _begin(self, claim: Entry) -> None:
        worker = self._worker
        held, log = self._held_by_me(claim), self._log
        log.unlink(missing_ok=True)
        self._child = Child(
            phase_command(_MODULE, held, isolation=worker.options.isolation),
            phase_environment(os.environ, root=worker.root, tmp=worker.tmp, devices=worker.devices),
            log,
        )
        self._claim, self._held, self._changed_at = claim, [], time.monotonic()
        self._say(f"no job to run: helps with the evaluation of {claim.ticket.job}")
        worker.send_heartbeat(helps=claim.ticket.job)

    def _can_help(self, claim: Entry) -> bool:
        """Whether this worker would generate the same samples: same devices, packages and code."""
        job = self._worker.queue.paths.job(claim.ticket.job)
        theirs = records.read(job.attempt(claim.ticket.attempt).manifest, Manifest)
        try:
            spec = parsing.load(job.spec)
        except JobspecError:
            return False
        if theirs is None or not self._worker.fits(spec):
            return False
        mine = manifest.manifest(self._worker.devices, None, self._worker.id, spec)
        return manifest.are_alike(mine, theirs)

    def _goes_on(self, claim: Entry) -> bool:
        """Whether the helper runs, gets on, and is still wanted."""
        share = HelpPaths.of_helper(self._held_by_me(claim))
        is_claimed = any(each.name == claim.name for each in self._worker.queue.claims_seen())
        if not is_claimed or not fs.exists(share.work):
            return False
        code = self._child.wait(0) if self._child is not None else exit_codes.DONE
        if code is not None:
            if code != exit_codes.DONE:
                self._refuse(claim, f"it ended with code {code}: {last_line(self._log)}")
            return False
        held = fs.list_names(self._held_by_me(claim))
        if held != self._held:
            self._held, self._changed_at = held, time.monotonic()
        if time.monotonic() - self._changed_at > self._worker.options.stall_s:
            self._refuse(claim, "it made no progress")
            return False
        return True

    def _refuse(self, claim: Entry, why: str) -> None:
        self._say(f"the helper for {claim.ticket.job} failed, the job goes on without it: {why}")
        self._refused.add(claim.name)

    def _held_by_me(self, claim: Entry) -> Path:
        job = self._worker.queue.paths.job(claim.ticket.job)
        return job.help_of(claim.ticket.attempt).held_by(self._worker.id)

    @property
    def _log(self) -> Path:
        return self._worker.tmp / "helper.log"


def give_back(held: Path) -> None:
    """Let others claim the chunks that a dead helper had claimed and not finished."""
    paths = HelpPaths.of_helper(held)
    for name in fs.list_names(held):
        if fs.exists(paths.result(name)):
            fs.remove(held / name)
        else:
            fs.move_once(held / name, paths.open / name)


def last_line(log: Path) -> str:
    """The last line of a log that is not empty; empty if there is none."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
