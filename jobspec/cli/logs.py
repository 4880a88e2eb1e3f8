"""`jobspec logs`: print a job's logs, and follow them through phases and attempts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from jobspec.cli.common import common, complete_jobs, open_queue, wants_json
from jobspec.cli.output import emit, say
from jobspec.errors import JobNotFound
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records import metrics, phases
from jobspec.storage.layout import AttemptPaths

_CHUNK = 1 << 16
_POLL_S = 0.5


@click.command()
@click.argument("job", shell_complete=complete_jobs)
@click.option("-f", "--follow", is_flag=True, help="Print new lines until the job ends.")
@click.option(
    "--phase", type=click.Choice(phases.NAMES), help="Only this phase's log.  [default: all phases]"
)
@click.option(
    "--attempt", type=click.IntRange(min=1), help="Attempt number.  [default: the last attempt]"
)
@click.option(
    "--node", type=click.IntRange(min=0), default=0, show_default=True, help="Node number."
)
@common
def logs(job: str, follow: bool, phase: str | None, attempt: int | None, node: int) -> None:
    """Print a job's log, one phase after the other. -f follows it into later attempts.

    \b
    jobspec logs qwen3-8b-lr1e-5-0123456789
    jobspec logs qwen -f --phase train

    JOB is an id or a unique prefix of one.
    """
    if follow and wants_json():
        raise click.UsageError("--json cannot be combined with -f.")
    queue = open_queue()
    chosen = queue.job(job)
    wanted = _Wanted((phase,) if phase else phases.NAMES, node)
    if wants_json():
        return emit(
            {"job": chosen.id, "logs": [_log_json(log) for log in _logs(chosen, wanted, attempt)]}
        )
    printed = {path: _print(path, 0) for _, path in _logs(chosen, wanted, attempt)}
    if follow:
        return _follow(queue, chosen, wanted, printed)
    if not printed:
        say(f"{chosen.id} has no log yet: it is {chosen.state}")
    return None


class _Wanted(NamedTuple):
    """Which of an attempt's logs to print."""

    phases: tuple[str, ...]
    node: int

    def of(self, attempt: AttemptPaths) -> list[Path]:
        """The existing logs, in the order of the phases."""
        logs = [attempt.log(phase, self.node) for phase in self.phases]
        return [log for log in logs if log.exists()]


def _logs(job: Job, wanted: _Wanted, attempt: int | None) -> Iterator[tuple[AttemptPaths, Path]]:
    """The existing logs of one attempt, in the order of the phases."""
    attempts = metrics.attempts(job.paths)
    if attempt is not None:
        attempts = [paths for paths in attempts if paths.number == attempt]
        if not attempts:
            raise JobNotFound(f"`{job.id}` has no attempt {attempt}", hint="see `jobspec show`")
    for paths in attempts[-1:]:
        yield from ((paths, log) for log in wanted.of(paths))


def _log_json(log: tuple[AttemptPaths, Path]) -> dict[str, object]:
    attempt, path = log
    text = path.read_text(errors="replace")
    return {
        "attempt": attempt.number,
        "phase": path.name.partition(".")[0],
        "path": str(path),
        "text": text,
    }


def _print(path: Path, offset: int) -> int:
    """Copy a log from `offset` on to stdout; returns its new end."""
    with path.open("rb") as log:
        log.seek(offset)
        while chunk := log.read(_CHUNK):
            sys.stdout.buffer.write(chunk)
            offset += len(chunk)
    sys.stdout.buffer.flush()
    return offset


def _follow(queue: Queue, job: Job, wanted: _Wanted, printed: dict[Path, int]) -> None:
    """Print new lines until the job has ended, through all phases and attempts.

    Polls the files, because network filesystems send no notifications.
    """
    while True:
        # Read the state first, so that everything written before the end is printed below.
        job = queue.job(job.id)
        for paths in metrics.attempts(job.paths):
            for path in wanted.of(paths):
                if path in printed or paths.number >= job.attempt:
                    if path not in printed:
                        say(f"--- attempt {paths.number}, {path.stem}", fg="cyan")
                    printed[path] = _print(path, printed.get(path, 0))
        if job.state in records.FINAL:
            say(f"--- {job.id}: {job.state}", fg="cyan")
            return
        time.sleep(_POLL_S)
