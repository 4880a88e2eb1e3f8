"""`jobspec wait`: wait until jobs have ended."""

from __future__ import annotations

import os
import subprocess
import time

import click

from jobspec.cli.common import (
    chosen_jobs,
    common,
    jobs_argument,
    open_queue,
    state_option,
    wants_json,
)
from jobspec.cli.output import emit, say
from jobspec.queue.job import Job
from jobspec.records import base as records
from jobspec.records.base import State


@click.command()
@jobs_argument(required=False)
@state_option
@click.option(
    "--notify",
    metavar="COMMAND",
    help="Shell command to run for each job that ends, with JOBSPEC_JOB, JOBSPEC_STATE and "
    "JOBSPEC_REASON in its environment.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    help="Seconds to wait before exiting with 1.  [default: no limit]",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.05),
    default=2.0,
    show_default=True,
    help="Seconds between reads of the queue.",
)
@common
def wait(
    jobs: tuple[str, ...],
    states: tuple[str, ...],
    notify: str | None,
    timeout: float | None,
    interval: float,
) -> None:
    """Wait until jobs have ended, by default all jobs.

    \b
    jobspec wait && jobspec results
    jobspec wait 'qwen3-*' --notify 'echo "$JOBSPEC_JOB $JOBSPEC_STATE"'

    It exits with 0 if all of them succeeded, otherwise with 1.
    """
    queue = open_queue(write=False)
    wanted = {job.id for job in chosen_jobs(queue, jobs, states)}
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: dict[str, Job] = {}
    while True:
        for job in queue.jobs():
            if job.id in wanted and job.id not in ended and job.state in records.FINAL:
                ended[job.id] = job
                _report(job, notify)
        if ended.keys() >= wanted or (deadline is not None and time.monotonic() >= deadline):
            break
        left_s = interval if deadline is None else deadline - time.monotonic()
        time.sleep(max(0.0, min(interval, left_s)))
    succeeded = len(ended) == len(wanted) and all(
        job.state is State.SUCCEEDED for job in ended.values()
    )
    if wants_json():
        emit(
            {
                "jobs": [
                    {"job": job.id, "state": job.state, "reason": job.reason}
                    for job in ended.values()
                ],
                "waiting": sorted(wanted - ended.keys()),
            }
        )
    elif wanted - ended.keys():
        say(f"{len(wanted - ended.keys())} have not ended yet")
    click.get_current_context().exit(0 if succeeded else 1)


def _report(job: Job, notify: str | None) -> None:
    if not wants_json():
        click.echo(f"{job.id}: {job.state}")
    if notify is not None:
        facts = {"JOBSPEC_JOB": job.id, "JOBSPEC_STATE": job.state.value}
        environment = {**os.environ, **facts, "JOBSPEC_REASON": job.reason or ""}
        done = subprocess.run(notify, shell=True, check=False, env=environment)
        if done.returncode:
            say(f"--notify exited with {done.returncode} for {job.id}", fg="yellow")
