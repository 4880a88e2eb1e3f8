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
from jobspec.monitoring.readable_log import LogReader
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records import metrics, phases
from jobspec.storage.layout import AttemptPaths

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
@click.option("--raw", is_flag=True, help="Also print progress bars and libraries' warnings.")
@common
def logs(
    job: str, follow: bool, phase: str | None, attempt: int | None, node: int, raw: bool
) -> None:
    """Print a job's log, one phase after the other. -f follows it into later attempts.

    \b
    jobspec logs qwen3-8b-lr1e-5-0123456789
    jobspec logs qwen -f --phase train

    Progress bars and libraries' warnings are left out, unless an error follows them; --raw and
    --json print everything. JOB is an id or a unique prefix of one.
    """
    if follow and wants_json():
        raise click.UsageError("--json cannot be combined with -f.")
    queue = open_queue(write=False)
    chosen = queue.job(job)
    wanted = _Wanted((phase,) if phase else phases.NAMES, node)
    if wants_json():
        return emit(
            {"job": chosen.id, "logs": [_log_json(log) for log in _logs(chosen, wanted, attempt)]}
        )
    readers = {path: LogReader(path, raw=raw) for _, path in _logs(chosen, wanted, attempt)}
    for reader in readers.values():
        _print(reader, last=not follow)
    if follow:
        return _follow(queue, chosen, wanted, readers, raw=raw)
    if not readers:
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


def _print(reader: LogReader, *, last: bool) -> None:
    """Print what is new in a log; with `last` also an unfinished line."""
    sys.stdout.buffer.write(reader.read(last=last))
    sys.stdout.buffer.flush()


def _follow(
    queue: Queue, job: Job, wanted: _Wanted, readers: dict[Path, LogReader], *, raw: bool
) -> None:
    """Print new lines until the job has ended, through all phases and attempts.

    Polls the files, because network filesystems send no notifications.
    """
    while True:
        # Read the state first, so that everything written before the end is printed below.
        job = queue.job(job.id)
        for paths in metrics.attempts(job.paths):
            for path in wanted.of(paths):
                if path in readers or paths.number >= job.attempt:
                    if path not in readers:
                        say(f"--- attempt {paths.number}, {path.stem}", fg="cyan")
                        readers[path] = LogReader(path, raw=raw)
                    _print(readers[path], last=job.state in records.FINAL)
        if job.state in records.FINAL:
            say(f"--- {job.id}: {job.state}", fg="cyan")
            return
        time.sleep(_POLL_S)
