"""The transitions: cancel, retry, prioritize, hold, release, drain, reap, fsck."""

from __future__ import annotations

import getpass
import time
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
from jobspec.cluster import detect, reaping
from jobspec.errors import JobNotFound, JobspecError
from jobspec.queue.entries import Job
from jobspec.queue.queue import Queue


@click.command()
@jobs_argument(required=False)
@state_option
@common
def cancel(jobs: tuple[str, ...], states: tuple[str, ...]) -> None:
    """Cancel pending or running jobs; a running one is stopped by its worker within seconds.

    \b
    jobspec cancel qwen3-8b-lr1e-5-0123456789
    jobspec cancel 'qwen3-*' --state pending
    """
    queue = open_queue()
    _move_each(_chosen(queue, jobs, states), queue.cancel, "cancelled")


@click.command()
@jobs_argument(required=False)
@state_option
@common
def retry(jobs: tuple[str, ...], states: tuple[str, ...]) -> None:
    """Put failed or cancelled jobs back, as a new attempt that resumes from the last checkpoint.

    \b
    jobspec retry qwen3-8b-lr1e-5-0123456789
    jobspec retry --state failed
    """
    queue = open_queue()
    _move_each(_chosen(queue, jobs, states), queue.retry, "pending again")


@click.command()
@jobs_argument(required=False)
@click.argument("priority", type=click.IntRange(0, 999))
@state_option
@common
def prioritize(jobs: tuple[str, ...], priority: int, states: tuple[str, ...]) -> None:
    """Give pending jobs another priority: 0 to 999, the highest is claimed first.

    \b
    jobspec prioritize 'olmo-*' 90
    jobspec prioritize --state pending 10
    """
    queue = open_queue()
    chosen = _chosen(queue, jobs, states)
    _move_each(chosen, lambda job: queue.prioritize(job, priority), f"priority {priority}")


@click.command()
@click.argument("reason", default="")
@common
def hold(reason: str) -> None:
    """Let nobody claim anything until `jobspec release`; what runs, runs on.

    \b
    jobspec hold "quota is full"
    """
    open_queue().hold(reason, by=getpass.getuser())
    _report_done({"hold": True, "reason": reason}, "on hold")


@click.command()
@common
def release() -> None:
    """Lift the hold.

    \b
    jobspec release
    """
    open_queue().release()
    _report_done({"hold": False}, "released")


@click.command()
@click.argument(
    "workers", metavar="WORKER...", nargs=-1, required=True, shell_complete=complete_workers
)
@common
def drain(workers: tuple[str, ...]) -> None:
    """Ask workers, by id or a prefix of it, to finish their job and claim nothing more.

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
@click.option("--worker", help="Only this worker's claims.", shell_complete=complete_workers)
@click.option("--now", is_flag=True, help="With --worker: it is dead for sure, do not watch it.")
@common
def reap(worker: str | None, now: bool) -> None:
    """Take back the claims of dead workers: those whose beat stands still for a whole lease.

    Where Slurm answers, a worker whose run has ended is not waited for.

    \b
    jobspec reap                                watches for one lease
    jobspec reap --worker gpu012-4711-0 --now   its node is known to be gone
    """
    if now and worker is None:
        raise click.UsageError("--now needs --worker: name who is dead.")
    queue = open_queue()
    if worker is not None:
        worker = _workers_named(worker, _claimants(queue))[0]
    reaped = queue.reap(worker=worker, now=now) if now else _watch_a_lease(queue, worker)
    say(f"{plural(len(reaped), 'job')} taken back")
    _report_done({"reaped": reaped}, "\n".join(reaped))


@click.command()
@common
def fsck() -> None:
    """Rebuild queue entries from jobs/, restore damaged ones, sweep what dead writers left.

    \b
    jobspec fsck
    """
    repairs = msgspec.to_builtins(open_queue().fsck())
    if wants_json():
        return emit(repairs)
    for what, names in repairs.items():
        for name in names:
            click.echo(f"{what}: {name}")
    if not any(repairs.values()):
        say("nothing to repair")
    return None


def _chosen(queue: Queue, patterns: Sequence[str], states: Sequence[str]) -> list[Job]:
    """The jobs named, in the states named. Neither: nothing is meant, so nothing is touched."""
    if not patterns and not states:
        raise click.UsageError("Name jobs, or a --state.")
    named = queue.select(patterns) if patterns else queue.jobs()
    return [job for job in named if job.state.value in (states or STATES)]


def _move_each(jobs: Sequence[Job], move: Callable[[str], Job], done: str) -> None:
    """Move every job that can be; say of each what came of it, exit 1 if one was refused."""
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
        say("no such jobs")
    context.exit(1 if refused else 0)


def _workers_named(prefix: str, known: Sequence[str]) -> list[str]:
    found = [worker for worker in known if worker == prefix] or [
        worker for worker in known if worker.startswith(prefix)
    ]
    if len(found) != 1:
        raise JobNotFound(
            f"{len(found) or 'no'} workers are named `{prefix}`",
            hint="`jobspec workers` lists them",
        )
    return found


def _claimants(queue: Queue) -> list[str]:
    claims = {job.worker for job in queue.jobs("running") if job.worker is not None}
    return sorted(claims | {seen.worker for seen in queue.workers()})


def _watch_a_lease(queue: Queue, worker: str | None) -> list[str]:
    """Look every heartbeat, as workers do, until everybody had a lease's time to beat."""
    lease_s, poll_s = queue.format.lease_s, min(queue.format.heartbeat_s, queue.format.lease_s / 4)
    scheduler, reaped = detect.scheduler(), queue.reap(worker=worker)
    say(f"watching the beats for {lease_s:.0f} s …")
    ends = time.monotonic() + lease_s + 2 * poll_s
    while time.monotonic() < ends and queue.jobs("running"):
        reaped += reaping.reap(queue, scheduler)
        time.sleep(poll_s)
        reaped += queue.reap(worker=worker)
    return reaped


def _report_done(data: dict[str, object], text: str) -> None:
    if wants_json():
        emit(data)
    elif text:
        click.echo(text)
