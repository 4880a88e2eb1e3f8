"""`jobspec gc` and `jobspec du`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobspec.cli.common import (
    chosen_jobs,
    common,
    jobs_argument,
    open_queue,
    state_option,
    wants_json,
)
from jobspec.cli.output import Cell, Column, Table, emit, plural, say, warn
from jobspec.cli.progress import waiting
from jobspec.estimates.disk_need import Footprints
from jobspec.maintenance import disk
from jobspec.maintenance.disk import Room, Usage

_ROWS = 30
_TITLES = {"states": "states", "epochs": "epochs", "model": "model", "eval": "eval", "rest": "rest"}


@click.command()
@jobs_argument(required=False)
@state_option
@click.option("--all", "everything", is_flag=True, help="Show all jobs.  [default: the 30 largest]")
@common
def du(jobs: tuple[str, ...], states: tuple[str, ...], everything: bool) -> None:
    """Show the disk usage of jobs by part, largest first, and the free space.

    \b
    jobspec du
    jobspec du --state succeeded

    `states` are checkpoints to resume from and trash, `epochs` weights kept after epochs, `model`
    the final weights. If the filesystem does not report your quota, set JOBSPEC_QUOTA_GIB.
    """
    queue = open_queue(write=False)
    chosen = chosen_jobs(queue, jobs, states)
    with waiting("measuring jobs", len(chosen)) as wait:
        usages = [disk.measure_usage(job) for job in wait.each(chosen)]
        usages.sort(key=lambda one: one.total, reverse=True)
        wait.tell("the cache")
        cache, room = disk.cache_size(queue.paths), disk.measure_room(queue.paths)
    if wants_json():
        rows = [{"job": one, "total": one.total} for one in usages]
        return emit({"jobs": rows, "cache": cache, "room": room})
    shown = usages if everything else usages[:_ROWS]
    for line in _table(shown, usages).lines() if usages else []:
        click.echo(line)
    if len(usages) > len(shown):
        click.echo(click.style(f"and {len(usages) - len(shown):,} more (--all)", dim=True))
    click.echo(f"cache {size(cache)}; {_room(room, sum(one.total for one in usages) + cache)}")
    freeable = sum(one.freeable for one in usages)
    if freeable:
        say(f"`jobspec gc` would free {size(freeable)}")
    return None


def _table(shown: Sequence[Usage], usages: Sequence[Usage]) -> Table:
    columns = [Column("job"), Column("state", 7), Column("total", right=True)]
    columns += [Column(title, 5, right=True) for title in _TITLES.values()]
    table = Table(columns)
    for one in shown:
        parts = [getattr(one, part) for part in _TITLES]
        table.add(
            one.job, one.state, size(one.total), *(size(part) if part else "" for part in parts)
        )
    if len(usages) > 1:
        sums = disk.add_up(usages)
        cells = [size(sums[part]) for part in _TITLES]
        bold = [Cell(text, bold=True) for text in ("all", "", size(sum(sums.values())), *cells)]
        table.add(*bold)
    return table


def _room(room: Room, used: int) -> str:
    quota = f", {size(used)} of the quota of {size(room.quota)} used" if room.quota else ""
    return f"{size(room.free)} of {size(room.total)} free{quota}"


@click.command()
@jobs_argument(required=False)
@state_option
@click.option("--dry-run", is_flag=True, help="Show what would be deleted without deleting it.")
@click.option(
    "--failed", is_flag=True, help="Also delete the checkpoints of failed and cancelled jobs."
)
@common
def gc(jobs: tuple[str, ...], states: tuple[str, ...], dry_run: bool, failed: bool) -> None:
    """Delete files that ended jobs no longer need: checkpoints to resume from, and trash.

    \b
    jobspec gc --dry-run
    jobspec gc 'qwen3-*' --failed

    It keeps weights, samples, logs and metrics. It also keeps the checkpoints of failed and
    cancelled jobs, so that `jobspec retry` can resume; --failed deletes these too.
    """
    queue = open_queue()
    freed: dict[str, int] = {}
    chosen = chosen_jobs(queue, jobs, states)
    with waiting("measuring jobs" if dry_run else "deleting files of jobs", len(chosen)) as wait:
        for job in wait.each(chosen):
            # Read the job again: one that was just retried needs its checkpoints.
            paths = disk.find_deletable(queue.job(job.id) if failed else job, failed=failed)
            sizes = [disk.size_of(path) if dry_run else disk.delete(path) for path in paths]
            if paths:
                freed[job.id] = sum(sizes)
    if wants_json():
        return emit({"freed": freed, "bytes": sum(freed.values()), "dry_run": dry_run})
    for job_id, count in freed.items():
        click.echo(f"{job_id}: {size(count)}")
    would = "would be freed" if dry_run else "freed"
    return say(f"{size(sum(freed.values()))} {would} in {plural(len(freed), 'job')}")


def say_disk(disk: Footprints, room: Room) -> None:
    """Report the expected disk usage of jobs and the free space; warn if it does not suffice."""
    if disk.unknown:
        say(f"disk usage of {', '.join(disk.unknown)} is unknown until `jobspec fetch` has run")
    if not disk.peak:
        return
    say(
        f"disk: {size(disk.stays)} when done, up to {size(disk.peak)} while all jobs train; "
        f"{size(room.free)} free"
    )
    if disk.stays > room.free:
        warn(
            "not enough space; `jobspec du` shows usage by job, `jobspec gc` deletes unneeded files"
        )
    elif disk.peak > room.free:
        warn("not all jobs can train at once: a full disk puts the queue on hold")


def size(count: float) -> str:
    """Format bytes like `512 B` or `3.4 GiB`, with at most three digits before the unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return (
                f"{count:.0f} B" if unit == "B" else f"{count:.{1 if count < 100 else 0}f} {unit}"
            )
        count /= 1024
    return f"{count:.1f} TiB"
