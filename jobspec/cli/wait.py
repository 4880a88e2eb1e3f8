"""`jobspec wait`."""

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
from jobspec.queue.entries import Job
from jobspec.records import base as records
from jobspec.records.base import State


@click.command()
@jobs_argument(required=False)
@state_option
@click.option(
    "--notify", metavar="CMD", help="Run for each job that ends: JOBSPEC_JOB, _STATE, _REASON."
)
@click.option("--timeout", type=click.FloatRange(0), help="Seconds; then exit 1.")
@click.option("--interval", type=click.FloatRange(0.05), default=2.0, show_default=True)
@common
def wait(
    jobs: tuple[str, ...],
    states: tuple[str, ...],
    notify: str | None,
    timeout: float | None,
    interval: float,
) -> None:
    """Wait until jobs have ended (all of them by default); exit 0 only if all succeeded.

    \b
    jobspec wait && jobspec results
    jobspec wait 'qwen3-*' --notify 'mail -s "$JOBSPEC_JOB $JOBSPEC_STATE" me </dev/null'
    """
    queue = open_queue()
    wanted = {job.id for job in chosen_jobs(queue, jobs, states)}
    ends = None if timeout is None else time.monotonic() + timeout
    ended: dict[str, Job] = {}
    while True:
        for job in queue.jobs():
            if job.id in wanted and job.id not in ended and job.state in records.FINAL:
                ended[job.id] = job
                _tell(job, notify)
        if ended.keys() >= wanted or (ends is not None and time.monotonic() >= ends):
            break
        time.sleep(interval if ends is None else max(0.0, min(interval, ends - time.monotonic())))
    good = len(ended) == len(wanted) and all(job.state is State.SUCCEEDED for job in ended.values())
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
    click.get_current_context().exit(0 if good else 1)


def _tell(job: Job, notify: str | None) -> None:
    if not wants_json():
        click.echo(f"{job.id}: {job.state}")
    if notify is not None:
        told = {"JOBSPEC_JOB": job.id, "JOBSPEC_STATE": job.state.value}
        environment = {**os.environ, **told, "JOBSPEC_REASON": job.reason or ""}
        done = subprocess.run(notify, shell=True, check=False, env=environment)
        if done.returncode:
            say(f"--notify exited with {done.returncode} for {job.id}", fg="yellow")
