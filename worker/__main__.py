"""`jobspec-worker --root ROOT`, also `python -m worker`: take jobs from a queue and do them."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import click

from jobspec.errors import DiskFull, JobspecError
from jobspec.queue import root as roots
from jobspec.queue.queue import Queue
from jobspec.records import exit_codes
from jobspec.storage.disk_errors import explain
from worker.host import scheduler_env
from worker.host.devices import visible_devices
from worker.launch import launcher
from worker.supervisor.options import WorkerOptions
from worker.supervisor.progress_log import say
from worker.supervisor.worker import Worker

_OPEN_AGAIN_S = 10.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", default=None, help="Root of the queue  [default: $JOBSPEC_ROOT]")
@click.option("--drain", is_flag=True, help="End when the queue is empty.")
@click.option("--max-jobs", type=click.IntRange(min=1), help="End after this number of jobs.")
@click.option("--job", "jobs", multiple=True, help="Run only this job; may be repeated.")
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
@click.option("--no-probe", is_flag=True, help="Do not measure the nodes before the first claim.")
def main(
    root: str | None,
    drain: bool,
    max_jobs: int | None,
    jobs: tuple[str, ...],
    idle_timeout: float | None,
    time_limit: float | None,
    devices: int | None,
    nodes: int | None,
    launcher: str,
    stall: float,
    isolation: str,
    poll: bool,
    no_probe: bool,
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
        jobs=frozenset(jobs),
        probe=not no_probe,
    )
    roots.restrict_umask()
    leave_other_python()
    try:
        queue = open_when_possible(root or os.environ.get("JOBSPEC_ROOT") or "jobspec-root")
        found = visible_devices(devices)
        found = dataclasses.replace(found, nodes=nodes or scheduler_env.read().nodes)
        code = Worker(queue, options, found).run()
    except JobspecError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        code = 1
    sys.exit(code)


def open_when_possible(root: str) -> Queue:
    """Open the root, or wait until its filesystem answers and can be written.

    On a signal to stop it exits with the code that requeues the array element.
    """
    reported = ""
    while True:
        try:
            return Queue(root)
        except (DiskFull, OSError) as error:
            message = str(error if isinstance(error, DiskFull) else explain(error))
        if message != reported:
            say(f"the root can't be used, trying again: {message}")
        reported = message
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(sig, lambda signum, frame: sys.exit(exit_codes.WORKER_REQUEUE))
        time.sleep(_OPEN_AGAIN_S)


def leave_other_python() -> None:
    """Make `python_environment` that of this process, and so of all that it starts."""
    if not any(name.startswith("PYTHON") for name in os.environ):
        return  # nearly always, and then its module need not be loaded
    from jobspec.worker_command import python_environment

    before, kept = dict(os.environ), python_environment()
    for name in before.keys() - kept.keys():
        del os.environ[name]
    os.environ.update(kept)
    given = filter(None, before.get("PYTHONPATH", "").split(os.pathsep))
    dropped = {str(Path(path).absolute()) for path in given} - {kept.get("PYTHONPATH")}
    sys.path[:] = [path for path in sys.path if path not in dropped]


if __name__ == "__main__":
    main()
