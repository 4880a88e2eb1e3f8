"""Commands that change jobs or the queue: cancel, retry, prioritize, hold, drain, reap, fsck …"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence

import click
import msgspec

from jobspec.cli.common import (
    STATES,
    common,
    complete_workers,
    jobs_argument,
    open_queue,
    state_option,
    wants_json,
)
from jobspec.cli.output import complain, emit, error_json, plural, say
from jobspec.cli.progress import countdown, waiting
from jobspec.cluster import detect, reaping
from jobspec.errors import JobNotFound, JobspecError
from jobspec.queue import fair_share
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue


@click.command()
@jobs_argument(required=False)
@state_option
@common
def cancel(jobs: tuple[str, ...], states: tuple[str, ...]) -> None:
    """Cancel pending or running jobs. The worker stops a running job within seconds.

    \b
    jobspec cancel qwen3-8b-lr1e-5-0123456789
    jobspec cancel 'qwen3-*' --state pending

    JOB is an id, a unique prefix of one, or a quoted glob. Name jobs, a --state, or both.
    """
    queue = open_queue()
    _move_each(_chosen(queue, jobs, states), queue.cancel, "cancelled")


@click.command()
@jobs_argument(required=False)
@state_option
@common
def retry(jobs: tuple[str, ...], states: tuple[str, ...]) -> None:
    """Run failed or cancelled jobs again, from their last checkpoint.

    \b
    jobspec retry qwen3-8b-lr1e-5-0123456789
    jobspec retry --state failed

    JOB is an id, a unique prefix of one, or a quoted glob. Name jobs, a --state, or both.
    """
    queue = open_queue()
    _move_each(_chosen(queue, jobs, states), queue.retry, "pending again")


@click.command()
@jobs_argument(required=False)
@click.argument("priority", type=click.IntRange(0, 999))
@state_option
@common
def prioritize(jobs: tuple[str, ...], priority: int, states: tuple[str, ...]) -> None:
    """Change the priority of pending jobs, from 0 to 999. The highest is claimed first.

    \b
    jobspec prioritize 'olmo-*' 90
    jobspec prioritize --state pending 10

    JOB is an id, a unique prefix of one, or a quoted glob. Name jobs, a --state, or both. The
    default priority of `jobspec enqueue` is 50.
    """
    queue = open_queue()
    chosen = _chosen(queue, jobs, states)
    _move_each(chosen, lambda job: queue.prioritize(job, priority), f"priority {priority}")


@click.command()
@click.argument("reason", default="")
@common
def hold(reason: str) -> None:
    """Stop all workers from claiming jobs until `jobspec release`. Running jobs continue.

    \b
    jobspec hold "quota is full"
    """
    open_queue().hold(reason, by=getpass.getuser())
    _report_done({"hold": True, "reason": reason}, "on hold")


@click.command()
@common
def release() -> None:
    """Let workers claim jobs again after `jobspec hold`.

    \b
    jobspec release
    """
    open_queue().release()
    _report_done({"hold": False}, "released")


@click.command()
@click.argument("running", metavar="[N|none]", required=False)
@click.option("--user", help="Of this user only.  [default: each user without one of their own]")
@common
def limit(running: str | None, user: str | None) -> None:
    """Limit the number of jobs that each user runs at once.

    \b
    jobspec limit                  show the limits
    jobspec limit 4                each user
    jobspec limit 8 --user ada     another limit for ada
    jobspec limit none             none

    Workers read a change within a minute. Running jobs continue.
    """
    if running not in (None, "none") and not running.isdecimal():
        raise click.BadParameter(f"`{running}` is neither a number nor none.", param_hint="N")
    queue = open_queue(write=running is not None)
    if running is None:
        limits = fair_share.read_limits(queue.paths)
    else:
        number = None if running == "none" else int(running)
        limits = fair_share.write_limit(queue.paths, user, number)
    if wants_json():
        return emit(msgspec.to_builtins(limits))
    click.echo(f"each user: {_limit_text(limits.running)}")
    for name, number in limits.users.items():
        click.echo(f"{name}: {_limit_text(number)}")
    return None


def _limit_text(number: int | None) -> str:
    return "no limit" if number is None else f"at most {plural(number, 'running job')}"


@click.command()
@click.argument(
    "workers", metavar="WORKER...", nargs=-1, required=True, shell_complete=complete_workers
)
@common
def drain(workers: tuple[str, ...]) -> None:
    """Let workers finish their job and then stop. WORKER is an id or a unique prefix.

    \b
    jobspec drain gpu012-4711-0
    """
    queue = open_queue()
    known = [seen.worker for seen in queue.workers()]
    chosen = [worker for prefix in workers for worker in _workers_named(prefix, known)]
    for worker in chosen:
        queue.drain(worker)
    _report_done({"draining": chosen}, "\n".join(chosen))


@click.command()
@click.option(
    "--worker",
    help="Reap only this worker: an id or a unique prefix.",
    shell_complete=complete_workers,
)
@click.option(
    "--now",
    is_flag=True,
    help="Do not wait for a heartbeat: the worker is known to be dead. Needs --worker.",
)
@common
def reap(worker: str | None, now: bool) -> None:
    """Put the jobs of dead workers back into the queue.

    \b
    jobspec reap                                 watch heartbeats for one lease
    jobspec reap --worker gpu012-4711-0 --now    its node is known to be down

    A worker is dead if it sends no heartbeat for a whole lease, or as soon as Slurm reports that
    its run has ended. Workers reap each other, so this is rarely needed.
    """
    if now and worker is None:
        raise click.UsageError("--now needs --worker.")
    queue = open_queue()
    if worker is not None:
        worker = _workers_named(worker, _claimants(queue))[0]
    reaped = queue.reap(worker=worker, now=now) if now else _watch_a_lease(queue, worker)
    say(f"{plural(len(reaped), 'job')} reaped")
    _report_done({"reaped": reaped}, "\n".join(reaped))


@click.command()
@common
def fsck() -> None:
    """Repair the queue from the jobs' directories.

    \b
    jobspec fsck

    It adds missing queue entries, restores damaged ones, and deletes temporary files of dead
    processes. It is safe to run at any time.
    """
    queue = open_queue()
    with waiting("reading the jobs' directories"):
        repairs = msgspec.to_builtins(queue.fsck())
    if wants_json():
        return emit(repairs)
    for kind, names in repairs.items():
        for name in names:
            click.echo(f"{kind}: {name}")
    if not any(repairs.values()):
        say("nothing to repair")
    return None


def _chosen(queue: Queue, patterns: Sequence[str], states: Sequence[str]) -> list[Job]:
    """The jobs that match patterns and states. With neither option, no jobs are selected."""
    if not patterns and not states:
        raise click.UsageError("Name jobs, or give a --state.")
    named = queue.select(patterns) if patterns else queue.jobs()
    return [job for job in named if job.state.value in (states or STATES)]


def _move_each(jobs: Sequence[Job], move: Callable[[str], Job], done: str) -> None:
    """Move each job and report the outcome; exits with 1 if a job was refused."""
    moved: list[Job] = []
    refused: list[JobspecError] = []
    for job in jobs:
        try:
            moved.append(move(job.id))
        except JobspecError as error:
            refused.append(error)
    context = click.get_current_context()
    if refused:
        complain(refused, as_json=False)
    if wants_json():
        failed = [error_json(error) for error in refused]
        rows = [{"job": job.id, "state": job.state, "attempt": job.attempt} for job in moved]
        emit({"jobs": rows, "errors": failed})
    else:
        for job in moved:
            click.echo(f"{job.id}: {done}")
    if not jobs:
        say("no job matches")
    context.exit(1 if refused else 0)


def _workers_named(prefix: str, known: Sequence[str]) -> list[str]:
    matches = [worker for worker in known if worker == prefix] or [
        worker for worker in known if worker.startswith(prefix)
    ]
    if len(matches) != 1:
        raise JobNotFound(
            f"{len(matches) or 'no'} workers match `{prefix}`",
            hint="`jobspec workers` lists them",
        )
    return matches


def _claimants(queue: Queue) -> list[str]:
    claims = {job.worker for job in queue.jobs("running") if job.worker is not None}
    return sorted(claims | {seen.worker for seen in queue.workers()})


def _watch_a_lease(queue: Queue, worker: str | None) -> list[str]:
    """Look once per heartbeat interval, as workers do, for the length of a lease."""
    lease_s, poll_s = queue.format.lease_s, min(queue.format.heartbeat_s, queue.format.lease_s / 4)
    scheduler, reaped = detect.scheduler(), queue.reap(worker=worker)
    with countdown("a silent worker's lease expires", lease_s + 2 * poll_s) as wait:
        while not wait.is_over and queue.jobs("running"):
            reaped += reaping.reap(queue, scheduler)
            wait.sleep(poll_s)
            reaped += queue.reap(worker=worker)
    return reaped


def _report_done(data: dict[str, object], text: str) -> None:
    if wants_json():
        emit(data)
    elif text:
        click.echo(text)
