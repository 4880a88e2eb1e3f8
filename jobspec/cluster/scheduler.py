"""What jobspec asks of a batch scheduler. `slurm.Slurm` is the only implementation so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobspec.cluster.site import Site


@dataclass(frozen=True)
class SchedulerRun:
    """One run of a scheduler's job. A requeued job keeps its id and counts its restarts."""

    cluster: str
    job: str
    restart_count: int


@dataclass(frozen=True)
class QueuedElement:
    """One job or array element as the scheduler lists it."""

    job: str
    state: str
    restarts: int
    name: str = ""


@dataclass(frozen=True)
class Submission:
    """A batch script and the command that submits it, without the script's path."""

    text: str
    command: tuple[str, ...]


class Scheduler(Protocol):
    """A batch scheduler as seen from this host."""

    @property
    def is_available(self) -> bool:
        """Whether this host has the scheduler's commands."""
        ...

    def submission(
        self, site: Site, site_file: Path, *, array: str, version: str, nodes: int = 0
    ) -> Submission:
        """Render the batch script of workers.

        Args:
            site: the site's settings.
            site_file: the file that holds them, as an absolute path; the script reads it again.
            array: array elements, such as `0-3`.
            version: of this code; the script refuses an older image.
            nodes: nodes of each worker; 0 for the script's default.

        Raises:
            JobspecError: `array` has no valid form.
        """
        ...

    def submit(self, submission: Submission, script: Path) -> str:
        """Submit the script stored at `script` and return the scheduler's job id.

        Raises:
            JobspecError: the command is missing or refused; nothing was submitted.
        """
        ...

    def wait_s(self, submission: Submission) -> float | None:
        """How many seconds an array element would wait, without submitting it.

        Returns:
            None if the scheduler would refuse it, or names no time.
        """
        ...

    def elements(self, name: str, user: str) -> list[QueuedElement] | None:
        """List a user's waiting and running elements whose job has this name.

        Returns:
            None if the scheduler does not answer.
        """
        ...

    def ended(self, runs: Sequence[SchedulerRun]) -> dict[SchedulerRun, bool]:
        """Tell which runs are over, as far as the scheduler knows.

        Returns:
            True for a run in a terminal state, False for a run whose job is on a later run. A run
            that still goes on, or of which nothing is known, is left out.
        """
        ...

    def out_of_memory(self, run: SchedulerRun) -> str | None:
        """How much memory an ended run used and had; None if it did not end for memory."""
        ...
