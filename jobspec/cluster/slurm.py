"""Asking Slurm: which runs of which jobs have ended, and what waits or runs under a name.

Slurm is asked, never relied on: where it does not answer, `None` says that nothing is known.
Source: squeue(1), scontrol(1). `squeue --json -j` ignores `-j`, so fields are asked for by name.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_TIMEOUT_S = 15.0
_ASK_AGAIN_S = 300.0  # once it did not answer: a controller that is down has enough to do
# Terminal base states. COMPLETING is none: processes may still be saving then.
_ENDED = "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT"
_ALIVE = "PENDING CONFIGURING RUNNING SUSPENDED REQUEUED REQUEUE_FED REQUEUE_HOLD"
ENDED = frozenset(_ENDED.split())
ALIVE = frozenset(_ALIVE.split())


@dataclass(frozen=True)
class Run:
    """One run of one job: a requeued element keeps its id and counts its restarts."""

    cluster: str
    job: str
    restart_count: int


@dataclass(frozen=True)
class Element:
    """What squeue shows of one job or array element."""

    job: str
    state: str
    restarts: int
    name: str = ""


@dataclass
class Slurm:
    """This host's Slurm. Remembers for minutes that it did not answer, and its cluster's name."""

    clock: Callable[[], float] = time.monotonic
    _cluster: str | None = field(default=None, init=False)
    _silent_until: float = field(default=float("-inf"), init=False)

    def ended(self, runs: Sequence[Run]) -> dict[Run, bool]:
        """Those of `runs` that are over, by Slurm's word.

        Another cluster's runs, jobs that Slurm has forgotten, and everything while it does not
        answer are not among them.

        Returns:
            True for a run in a terminal state, False for one whose job is on a later run.
        """
        if not runs or (cluster := self._name()) is None:
            return {}
        ours = [run for run in runs if run.cluster == cluster and run.job.isdigit()]
        if not ours:
            return {}
        shown = self._queue("--jobs=" + ",".join(sorted({run.job for run in ours})))
        seen = {element.job: element for element in shown or ()}
        words = {run: _word(run, seen.get(run.job)) for run in ours}
        return {run: word for run, word in words.items() if word is not None}

    def elements(self, name: str, user: str) -> list[Element] | None:
        """A user's jobs of one name, an array's pending elements each for itself.

        Returns:
            None if Slurm doesn't answer.
        """
        found = self._queue(f"--name={name}", f"--user={user}", "--array")
        return None if found is None else [each for each in found if each.state in ALIVE]

    def _queue(self, *options: str) -> list[Element] | None:
        fields = "JobID:24,State:24,RestartCnt:12,Name:64"
        told = self._ask("squeue", "--noheader", "--states=all", f"--Format={fields}", *options)
        if told is None:
            return None
        rows = (line.split() for line in told.splitlines())
        return [Element(r[0], r[1], int(r[2]), r[3]) for r in rows if len(r) == 4]

    def _name(self) -> str | None:
        if self._cluster is None:
            told = self._ask("scontrol", "show", "config") or ""
            lines = (line.partition("=") for line in told.splitlines())
            names = [value.strip() for key, _, value in lines if key.strip() == "ClusterName"]
            self._cluster = names[0] if names else None
        return self._cluster

    def _ask(self, *command: str) -> str | None:
        """What a command printed; None where there is no answer. Partial answers count: squeue
        fails when one of several jobs is forgotten, and shows the others."""
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


def _word(run: Run, shown: Element | None) -> bool | None:
    # RACE: a requeued run is COMPLETING while its processes still save; then there is no word.
    if shown is None or shown.state not in ENDED | ALIVE or shown.restarts < run.restart_count:
        return None
    if shown.restarts > run.restart_count:
        return False
    return True if shown.state in ENDED else None
