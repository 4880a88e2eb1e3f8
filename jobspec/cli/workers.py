"""`jobspec workers` and `jobspec quarantine`: the workers, and hosts that must not claim jobs."""

from __future__ import annotations

import getpass

import click

from jobspec.cli.common import common, open_queue, wants_json
from jobspec.cli.output import Cell, Column, Table, duration, emit, say, warn
from jobspec.cli.status_view import worker_table
from jobspec.monitoring import node_probes
from jobspec.monitoring import workers as monitoring
from jobspec.queue.queue import Queue


@click.command()
@click.option("--probes", is_flag=True, help="Show what workers measured of their nodes.")
@common
def workers(probes: bool) -> None:
    """List workers: busy, idle, draining, and silent ones.

    \b
    jobspec workers
    jobspec workers --probes
    """
    queue = open_queue(write=False)
    if probes:
        return _show_probes(queue)
    rows = monitoring.rows(queue)
    if wants_json():
        return emit({"root": str(queue.paths.root), "workers": rows})
    if not rows:
        return say(f"no workers yet: start one with `jobspec-worker --root {queue.paths.root}`")
    for line in worker_table(rows).lines():
        click.echo(line)
    return None


@click.group()
def quarantine() -> None:
    """Keep hosts from claiming jobs: list, add or clear them.

    \b
    jobspec quarantine list
    jobspec quarantine add gpu012 --reason "ECC errors" --hours 24
    jobspec quarantine clear gpu012
    """


@quarantine.command("list")
@common
def list_() -> None:
    """List quarantined hosts, why and until when.

    \b
    jobspec quarantine list
    """
    marks = open_queue(write=False).quarantined()
    if wants_json():
        return emit({"quarantine": list(marks.values())})
    table = Table([Column("host"), Column("reason"), Column("by", 3), Column("until", 5)])
    for mark in marks.values():
        table.add(mark.host, mark.reason, mark.by, _until(mark.expires_at))
    for line in table.lines() if marks else []:
        click.echo(line)
    if not marks:
        say("no host is quarantined")
    return None


@quarantine.command()
@click.argument("host")
@click.option("--reason", default="", help="Shown by `jobspec quarantine list`.")
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    default=24.0,
    show_default=True,
    help="How long the host stays quarantined.",
)
@common
def add(host: str, reason: str, hours: float) -> None:
    """Keep the workers of a host from claiming jobs.

    \b
    jobspec quarantine add gpu012 --reason "ECC errors"
    """
    open_queue().quarantine(host, reason, ttl_s=hours * 3600, by=getpass.getuser())
    _done(host, "quarantined")


@quarantine.command()
@click.argument("host")
@common
def clear(host: str) -> None:
    """Let the workers of a host claim jobs again.

    \b
    jobspec quarantine clear gpu012
    """
    open_queue().clear(host)
    _done(host, "cleared")


def _show_probes(queue: Queue) -> None:
    found, unread = node_probes.read(queue.paths)
    for path in unread:
        warn(f"{path} is no probe of a node")
    if wants_json():
        return emit({"root": str(queue.paths.root), "probes": found})
    figures = [Column(figure.title, 3, right=True) for figure in node_probes.FIGURES]
    table = Table([Column("host"), Column("kind"), *figures, Column("age", 5, right=True)])
    for probe in found:
        cells = [node_probes.shown(probe, figure) for figure in node_probes.FIGURES]
        notes = [*filter(None, [probe.fault]), *probe.throttling, *node_probes.slower(probe, found)]
        age = duration(monitoring.age_s(probe.at))
        table.add(
            probe.host, probe.kind, *cells, age, notes=[Cell(note, "yellow") for note in notes]
        )
    for line in table.lines() if found else []:
        click.echo(line)
    if not found:
        say("no node was probed yet: a worker does so before its first job")
    return None


def _until(moment: str) -> str:
    return f"{moment[:19].replace('T', ' ')} UTC" if moment else ""


def _done(host: str, what: str) -> None:
    if wants_json():
        emit({"host": host, "state": what})
    else:
        click.echo(f"{host}: {what}")
