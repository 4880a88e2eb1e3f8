"""`jobspec-worker --root ROOT`, also `python -m worker`: take jobs from a queue and do them."""

from __future__ import annotations

import dataclasses
import os
import sys

import click

from jobspec.errors import JobspecError
from jobspec.queue import root as roots
from jobspec.queue.queue import Queue
from worker.host import scheduler_env
from worker.host.devices import visible_devices
from worker.launch import launcher
from worker.supervisor.worker import Worker, WorkerOptions


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", default=None, help="Root of the queue  [default: $JOBSPEC_ROOT]")
@click.option("--drain", is_flag=True, help="End when the queue is empty.")
@click.option("--max-jobs", type=click.IntRange(min=1), help="End after this number of jobs.")
@click.option("--idle-timeout", type=float, help="End after this many seconds without work.")
@click.option("--time-limit", type=float, help="Seconds this worker has; Slurm's end counts too.")
@click.option("--devices", type=click.IntRange(min=1), help="GPUs, or CPU processes, to use.")
@click.option("--nodes", type=click.IntRange(min=1), help="Nodes to use  [default: all of the job]")
@click.option(
    "--launcher",
    default=launcher.SRUN,
    help="Command that starts a program once on each of {nodes} nodes.  [default: srun]",
)
@click.option("--stall", default=3600.0, help="Seconds without progress that end a phase.")
@click.option(
    "--isolation",
    type=click.Choice(["auto", "subreaper"]),
    default="auto",
    help="How a phase ends with its worker: in a PID namespace if possible, or by a subreaper.",
)
@click.option(
    "--poll",
    is_flag=True,
    help="List the queue regularly instead of waiting for file notifications.",
)
def main(
    root: str | None,
    drain: bool,
    max_jobs: int | None,
    idle_timeout: float | None,
    time_limit: float | None,
    devices: int | None,
    nodes: int | None,
    launcher: str,
    stall: float,
    isolation: str,
    poll: bool,
) -> None:
    """Run jobs from a queue, one after the other, until it is stopped.

    On SIGUSR2 or SIGTERM it saves a checkpoint, returns the job to the queue and ends. Exit code 75
    asks the batch script to requeue the array element.

    Example: jobspec-worker --root /scratch/me/queue --drain
    """
    options = WorkerOptions(
        drain=drain,
        max_jobs=max_jobs,
        idle_timeout_s=idle_timeout,
        time_limit_s=time_limit,
        stall_s=stall,
        devices=devices,
        isolation=isolation,
        poll=poll,
        launcher=launcher,
    )
    roots.restrict_umask()
    try:
        queue = Queue(root or os.environ.get("JOBSPEC_ROOT") or "jobspec-root")
        found = visible_devices(devices)
        found = dataclasses.replace(found, nodes=nodes or scheduler_env.read().nodes)
        code = Worker(queue, options, found).run()
    except JobspecError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
