"""Slurm as `scheduler.Scheduler`: submission, the state of its queue, which runs have ended.

Slurm's answers are used where it gives any; None means that nothing is known.
Source: sbatch(1), squeue(1), scontrol(1). `squeue --json -j` ignores `-j`, so this asks for fields
by name.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobspec.cluster import batch_script
from jobspec.cluster.scheduler import QueuedElement, SchedulerRun, Submission
from jobspec.cluster.site import Site
from jobspec.errors import JobspecError

_ARRAY = re.compile(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*(?:%\d+)?")
_TIMEOUT_S = 15.0
_ASK_AGAIN_S = 300.0  # after no answer: a controller that is down is not asked again for a while
# Terminal base states. COMPLETING is none of them: processes may still be saving.
_ENDED = "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT"
_ALIVE = "PENDING CONFIGURING RUNNING SUSPENDED REQUEUED REQUEUE_FED REQUEUE_HOLD"
ENDED = frozenset(_ENDED.split())
ALIVE = frozenset(_ALIVE.split())


@dataclass
class Slurm:
    """This host's Slurm. Remembers its cluster's name, and for minutes that it did not answer."""

    clock: Callable[[], float] = time.monotonic
    _cluster: str | None = field(default=None, init=False)
    _silent_until: float = field(default=float("-inf"), init=False)

    @property
    def is_available(self) -> bool:
        return shutil.which("squeue") is not None

    def submission(
        self, site: Site, site_file: Path, *, array: str, version: str, nodes: int = 0
    ) -> Submission:
        if not _ARRAY.fullmatch(array):
            raise JobspecError(
                f"not an array: `{array}`", hint="write it like 0-3, or 0,2, or 0-15%4"
            )
        text = batch_script.render(site, site_file, version=version)
        command = ["sbatch", "--parsable", f"--array={array}"]
        if nodes:
            command.append(f"--nodes={nodes}")
        return Submission(text, tuple(command))

    def submit(self, submission: Submission, script: Path) -> str:
        program, *options = submission.command
        sbatch = shutil.which(program)
        if sbatch is None:
            raise JobspecError(
                f"`{program}` is not installed here", hint="submit from a login node of the cluster"
            )
        done = subprocess.run(
            [sbatch, *options, str(script)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=script.parent,
        )
        if done.returncode != 0:
            message = (done.stderr or done.stdout).strip()
            raise JobspecError(
                f"sbatch refused: {message}",
                hint="`jobspec submit --dry-run` shows the options in the script's head",
            )
        return done.stdout.strip().partition(";")[0]

    def ended(self, runs: Sequence[SchedulerRun]) -> dict[SchedulerRun, bool]:
        # Runs of another cluster and jobs that Slurm has forgotten are left out too.
        if not runs or (cluster := self._name()) is None:
            return {}
        ours = [run for run in runs if run.cluster == cluster and run.job.isdigit()]
        if not ours:
            return {}
        listed = self._queue("--jobs=" + ",".join(sorted({run.job for run in ours})))
        element_of = {element.job: element for element in listed or ()}
        states = {run: _has_ended(run, element_of.get(run.job)) for run in ours}
        return {run: ended for run, ended in states.items() if ended is not None}

    def elements(self, name: str, user: str) -> list[QueuedElement] | None:
        listed = self._queue(f"--name={name}", f"--user={user}", "--array")
        return None if listed is None else [each for each in listed if each.state in ALIVE]

    def _queue(self, *options: str) -> list[QueuedElement] | None:
        fields = "JobID:24,State:24,RestartCnt:12,Name:64"
        text = self._ask("squeue", "--noheader", "--states=all", f"--Format={fields}", *options)
        if text is None:
            return None
        rows = (line.split() for line in text.splitlines())
        return [QueuedElement(r[0], r[1], int(r[2]), r[3]) for r in rows if len(r) == 4]

    def _name(self) -> str | None:
        if self._cluster is None:
            text = self._ask("scontrol", "show", "config") or ""
            lines = (line.partition("=") for line in text.splitlines())
            names = [value.strip() for key, _, value in lines if key.strip() == "ClusterName"]
            self._cluster = names[0] if names else None
        return self._cluster

    def _ask(self, *command: str) -> str | None:
        """Run a command; returns its output, or None if Slurm did not answer.

        Partial answers count: squeue fails when it has forgotten one of several jobs, and lists
        the others.
        """
        if self.clock() < self._silent_until:
            return None
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            self._silent_until = self.clock() + _ASK_AGAIN_S
            return None
        if done.returncode and not done.stdout.strip() and "Invalid job id" not in done.stderr:
            self._silent_until = self.clock() + _ASK_AGAIN_S
            return None
        return done.stdout


def _has_ended(run: SchedulerRun, listed: QueuedElement | None) -> bool | None:
    # RACE: a requeued run is COMPLETING while its processes still save: nothing is known then.
    if listed is None or listed.state not in ENDED | ALIVE or listed.restarts < run.restart_count:
        return None
    if listed.restarts > run.restart_count:
        return False
    return True if listed.state in ENDED else None
