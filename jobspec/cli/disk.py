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
from jobspec.estimates.disk_need import Footprints
from jobspec.maintenance import disk
from jobspec.maintenance.disk import Room, Usage

_ROWS = 30
_TITLES = {"states": "states", "epochs": "epochs", "model": "model", "eval": "eval", "rest": "rest"}


@click.command()
@jobs_argument(required=False)
@state_option
@click.option("--all", "everything", is_flag=True, help="Every job, however many.")
@common
def du(jobs: tuple[str, ...], states: tuple[str, ...], everything: bool) -> None:
    """Show what jobs take on disk, part by part, the largest first, and what is free.

    \b
    jobspec du
    jobspec du --state succeeded

    `states` are resume states and trash, `epochs` the weights kept of epochs, `model` the final
    ones. Where the filesystem does not tell of your quota, set JOBSPEC_QUOTA_GIB to it.
    """
    queue = open_queue()
    found = [disk.usage(job) for job in chosen_jobs(queue, jobs, states)]
    found.sort(key=lambda one: one.total, reverse=True)
    cache, room = disk.cache(queue.paths), disk.room(queue.paths)
    if wants_json():
        rows = [{"job": one, "total": one.total} for one in found]
        return emit({"jobs": rows, "cache": cache, "room": room})
    shown = found if everything else found[:_ROWS]
    for line in _table(shown, found).lines() if found else []:
        click.echo(line)
    if len(found) > len(shown):
        click.echo(click.style(f"and {len(found) - len(shown):,} more (--all)", dim=True))
    click.echo(f"cache {size(cache)}; {_room(room, sum(one.total for one in found) + cache)}")
    freeable = sum(one.freeable for one in found)
    if freeable:
        say(f"`jobspec gc` would free {size(freeable)}")
    return None


def _table(shown: Sequence[Usage], found: Sequence[Usage]) -> Table:
    columns = [Column("job"), Column("state", 7), Column("total", right=True)]
    columns += [Column(title, 5, right=True) for title in _TITLES.values()]
    table = Table(columns)
    for one in shown:
        parts = [getattr(one, part) for part in _TITLES]
        table.add(
            one.job, one.state, size(one.total), *(size(part) if part else "" for part in parts)
        )
    if len(found) > 1:
        sums = disk.total(found)
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
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--failed", is_flag=True, help="Resume states of failed and cancelled jobs too.")
@common
def gc(jobs: tuple[str, ...], states: tuple[str, ...], dry_run: bool, failed: bool) -> None:
    """Drop what ended jobs need no more: optimizer states of succeeded ones, trash.

    \b
    jobspec gc --dry-run
    jobspec gc 'qwen3-*' --failed

    Weights, samples, logs and metrics stay. Failed and cancelled jobs keep their resume states,
    from which `jobspec retry` goes on, unless --failed gives them up.
    """
    queue = open_queue()
    freed: dict[str, int] = {}
    for job in chosen_jobs(queue, jobs, states):
        # Looked at again: a job that somebody has just retried needs its states.
        paths = disk.droppable(queue.job(job.id) if failed else job, failed=failed)
        sizes = [disk.size_of(path) if dry_run else disk.drop(path) for path in paths]
        if paths:
            freed[job.id] = sum(sizes)
    if wants_json():
        return emit({"freed": freed, "bytes": sum(freed.values()), "dry_run": dry_run})
    for job_id, count in freed.items():
        click.echo(f"{job_id}: {size(count)}")
    would = "would be freed" if dry_run else "freed"
    return say(f"{size(sum(freed.values()))} {would} in {plural(len(freed), 'job')}")


def say_disk(disk: Footprints, room: Room) -> None:
    """What jobs will take on disk against what is free; a warning where that is less."""
    if disk.unknown:
        say(f"disk: not known for {', '.join(disk.unknown)}: `jobspec fetch` brings what says it")
    if not disk.peak:
        return
    say(
        f"disk: {size(disk.stays)} stay, up to {size(disk.peak)} while all of them train; "
        f"{size(room.free)} free"
    )
    if disk.stays > room.free:
        warn("that does not fit; `jobspec du` shows what takes it, `jobspec gc` drops what can go")
    elif disk.peak > room.free:
        warn("not all of them can train at once: a full disk would put the queue on hold")


def size(count: float) -> str:
    """`512 B`, `3.4 GiB`: three digits at most before the unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return (
                f"{count:.0f} B" if unit == "B" else f"{count:.{1 if count < 100 else 0}f} {unit}"
            )
        count /= 1024
    return f"{count:.1f} TiB"
