"""Slurm as `scheduler.Scheduler`: submission, the state of its queue, which runs have ended.

Slurm's answers are used where it gives any; None means that nothing is known.
Source: sbatch(1), squeue(1), scontrol(1). `squeue --json -j` ignores `-j`, so this asks for fields
by name.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from jobspec.cluster import batch_script, slurm_limits
from jobspec.cluster.scheduler import QueuedElement, SchedulerRun, Submission
from jobspec.cluster.site import Site
from jobspec.errors import JobspecError

_ARRAY = re.compile(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*(?:%\d+)?")
_LOOK_AT_OPTIONS = "`jobspec submit --dry-run` shows the options in the script's head"
_STARTS = re.compile(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)n?")
_TIMEOUT_S = 15.0
_SUBMIT_TIMEOUT_S = 120.0
_ASK_AGAIN_S = 300.0  # after no answer: a controller that is down is not asked again for a while
# Terminal base states. COMPLETING is none of them: processes may still be saving.
_ENDED = "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT"
_ALIVE = "PENDING CONFIGURING RUNNING SUSPENDED REQUEUED REQUEUE_FED REQUEUE_HOLD"
# Variables that change what Slurm's commands do and print, and those that must stay: the path of
# Slurm's configuration, and the user's credentials.
_CHANGING = ("SLURM_", "SQUEUE_", "SBATCH_", "SALLOC_", "SRUN_", "SINFO_", "SCONTROL_", "SACCT_")
_KEPT = frozenset(("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"))
ENDED = frozenset(_ENDED.split())
ALIVE = frozenset(_ALIVE.split())


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for Slurm's commands: `base` without what would change their answers.

    A login shell may set another time format, cluster or columns for people. Within an allocation,
    `SLURM_*` describes that allocation and not the workers that are submitted.
    """
    return {
        name: value
        for name, value in base.items()
        if name in _KEPT or not name.startswith(_CHANGING)
    }


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
        try:
            done = subprocess.run(
                [sbatch, *options, str(script)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                cwd=script.parent,
                env=environment(),
                timeout=_SUBMIT_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise self._unanswered(submission, error) from error
        if done.returncode != 0:
            message = (done.stderr or done.stdout).strip()
            hint = slurm_limits.explain(message, submission, self._run)
            raise JobspecError(f"sbatch refused: {message}", hint=hint or _LOOK_AT_OPTIONS)
        return done.stdout.strip().partition(";")[0]

    def wait_s(self, submission: Submission) -> float | None:
        program, *options = submission.command
        try:
            done = subprocess.run(
                [program, "--test-only", *options],
                input=submission.text,
                capture_output=True,
                text=True,
                check=False,
                env=environment(),
                timeout=_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        found = _STARTS.search(done.stderr + done.stdout)
        if done.returncode or found is None:
            return None
        # Slurm prints this host's local time.
        start = datetime.fromisoformat(found[1])
        return max(0.0, (start - datetime.now()).total_seconds())

    def _unanswered(self, submission: Submission, gone: subprocess.TimeoutExpired) -> JobspecError:
        """An sbatch that retries, because the cluster is full, says so and never ends."""
        # Bytes, although the command was run for text.
        message = (gone.stderr or b"").decode(errors="replace").strip()
        line = f": {message.splitlines()[-1]}" if message else ""
        return JobspecError(
            f"sbatch did not answer within {_SUBMIT_TIMEOUT_S:.0f} s{line}",
            hint=slurm_limits.explain(message, submission, self._run)
            or "`squeue --me` shows whether it was submitted all the same",
        )

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

    def out_of_memory(self, run: SchedulerRun) -> str | None:
        # A step may be OUT_OF_MEMORY while its job is FAILED; only accounting lists ended steps.
        shown = _assignments(self._ask("scontrol", "--oneliner", "show", "job", run.job) or "")
        fields = "--format=State,MaxRSS,ReqMem"
        told = self._run("sacct", "--noheader", "--parsable2", "--jobs", run.job, fields)
        steps = [line.split("|") for line in (told or "").splitlines() if line.count("|") == 2]
        states = [shown.get("JobState", ""), *(step[0] for step in steps)]
        if not any(state.startswith("OUT_OF_MEMORY") for state in states):
            return None
        peaks = [used for step in steps if (used := size_gib(step[1]))]
        tres = _assignments(shown.get("AllocTRES", shown.get("TRES", "")).replace(",", " "))
        given = [tres.get("mem", ""), shown.get("MinMemoryNode", ""), *(step[2] for step in steps)]
        limit = next((limit for text in given if (limit := size_gib(text))), None)
        used_text = f"it used {max(peaks):.1f} GiB" if peaks else "it used all its memory"
        return used_text if limit is None else f"{used_text} of {limit:.1f} GiB"

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
            self._cluster = slurm_limits.setting("ClusterName", self._ask)
        return self._cluster

    def _ask(self, *command: str) -> str | None:
        """Run a command; returns its output, or None if Slurm did not answer.

        Partial answers count: squeue fails when it has forgotten one of several jobs, and lists
        the others.
        """
        if self.clock() < self._silent_until:
            return None
        told = self._run(*command)
        if told is None:
            self._silent_until = self.clock() + _ASK_AGAIN_S
        return told

    def _run(self, *command: str) -> str | None:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
                env=environment(),
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode and not done.stdout.strip() and "Invalid job id" not in done.stderr:
            return None
        return done.stdout


def size_gib(text: str) -> float | None:
    """GiB of one of Slurm's sizes: `64G`, `4000M`, `66905236K`, `4Gn`, bytes without a unit.

    None if it is empty, unlimited or per core (`4Gc`).
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        return None
    return float(found[1]) * 1024.0 ** ("KMGT".find(found[2]) - 2 if found[2] else -3)


def _assignments(text: str) -> dict[str, str]:
    """The words of the form `Key=value`."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def _has_ended(run: SchedulerRun, listed: QueuedElement | None) -> bool | None:
    # RACE: a requeued run is COMPLETING while its processes still save: nothing is known then.
    if listed is None or listed.state not in ENDED | ALIVE or listed.restarts < run.restart_count:
        return None
    if listed.restarts > run.restart_count:
        return False
    return True if listed.state in ENDED else None
