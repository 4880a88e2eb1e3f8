"""`jobspec doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext

import click

from jobspec.cli.common import common, current_root, open_queue, wants_json
from jobspec.cli.output import emit_struct, interactive, plural, say, terminal_width, wrap
from jobspec.cli.progress import waiting
from jobspec.doctor import run as doctors
from jobspec.doctor.measurements import CheckResult, Diagnosis, Recommendation
from jobspec.errors import RootError
from jobspec.records.answers import MachineFact

_INDENT = 23  # of a finding's message: beside its mark and its name
_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


@click.command()
@click.option(
    "--wait-for",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of hosts to measure between; start the command on each, with the same root.",
)
@click.option("--peer", metavar="NAME", help="Name of this host.  [default: the hostname]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    help="Approximate time limit; it waits at most a quarter of it for a change to appear.",
)
@click.option(
    "--apply",
    is_flag=True,
    help="Write the recommended heartbeat and lease into the root's FORMAT without asking.",
)
@common
def doctor(wait_for: int, peer: str | None, seconds: float, apply: bool) -> None:
    """Say what this machine can do, measure the root's filesystem, and recommend settings.

    \b
    jobspec doctor
    srun -N2 --ntasks-per-node=1 jobspec doctor --wait-for 2

    It lists GPUs, packages, kernels, engine, scheduler and container, with the command that closes
    each gap. It measures renames by several threads or hosts at once, how late changes become
    visible, fsync, clocks, permissions, path lengths, free space and notifications. It deletes all
    its files. If the root does not exist yet, it measures the directory that would contain it. If
    the root's heartbeat or lease is too short, it offers to write the recommended ones.
    """
    # With other hosts it says whom it waits for.
    alone = waiting("measuring the filesystem") if wait_for == 1 else nullcontext()
    with alone:
        diagnosis = doctors.examine(
            current_root(), seconds=seconds, name=peer, wait_for=wait_for, log=say
        )
    if wants_json():
        emit_struct(diagnosis)
    else:
        for line in _lines(diagnosis):
            click.echo(line)
    if diagnosis.advice is not None and diagnosis.is_too_short:
        _offer(diagnosis.advice, asked=apply)
    click.get_current_context().exit(0 if diagnosis.is_usable else 1)


def _offer(advice: Recommendation, *, asked: bool) -> None:
    """Write the recommended timings if the user wants that; never while workers are alive."""
    from jobspec.monitoring import workers
    from jobspec.queue import root

    wanted = f"heartbeat {advice.heartbeat_s:g} s, lease {advice.lease_s:g} s"
    if not asked:
        if wants_json() or not (interactive() and sys.stdin.isatty()):
            return
        if not click.confirm(f"\nWrite {wanted} into the root's FORMAT?", err=True):
            return
    queue = open_queue()
    alive = [row.worker for row in workers.rows(queue) if row.alive]
    if alive:
        raise RootError(
            f"{plural(len(alive), 'worker')} alive: they would go on with the old settings",
            file=queue.paths.root,
            hint="`jobspec drain` them, then run `jobspec doctor --apply`",
        )
    root.set_timings(queue.paths, heartbeat_s=advice.heartbeat_s, lease_s=advice.lease_s)
    say(f"{queue.paths.format}: {wanted}")


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield click.style(diagnosis.host, bold=True)
    yield from _machine_lines(diagnosis.machine)
    yield ""
    yield click.style(diagnosis.root, bold=True)
    yield from _check_lines(diagnosis.checks)
    if diagnosis.advice is not None:
        yield ""
        yield from _recommendation_lines(diagnosis.advice)


def _machine_lines(facts: list[MachineFact]) -> Iterator[str]:
    for fact in facts:
        lines = _finding_lines(fact.severity, fact.subject, fact.message)
        mend = f"{click.style('→', fg='cyan')} {fact.command}" if fact.command else ""
        if mend and len(click.unstyle(f"{lines[-1]}  {mend}")) <= terminal_width():
            lines[-1] += f"  {mend}"
        elif mend:  # whole, so that it can be copied
            lines.append(f"{'':{_INDENT}}{mend}")
        yield from lines


def _check_lines(results: list[CheckResult]) -> Iterator[str]:
    for result in results:
        yield from _finding_lines(result.severity, result.check, result.message)
        if result.hint:
            first, *rest = _beside(f"hint: {result.hint}")
            yield first.replace("hint: ", click.style("hint: ", fg="cyan"), 1)
            yield from rest


def _finding_lines(severity: str, subject: str, message: str) -> list[str]:
    """A finding, its message wrapped beside it."""
    first, *rest = _beside(message)
    mark = click.style(f"{severity:<4}", fg=_COLOURS[severity])
    return [f"  {mark}  {subject:<13}  {first[_INDENT:]}", *rest]


def _beside(text: str) -> list[str]:
    """Lines of a text right of the names of findings."""
    room = max(30, terminal_width() - _INDENT)
    return [f"{'':{_INDENT}}{line}" for line in wrap(text, room)]


def _recommendation_lines(recommended: Recommendation) -> Iterator[str]:
    first_s, longest_s = recommended.poll_s, recommended.longest_poll_s
    polling = f"by listing every {first_s:g} s at first, every {longest_s:g} s later"
    waiting = "for notifications" if recommended.notifications else polling
    heartbeat_s, lease_s = recommended.heartbeat_s, recommended.lease_s
    yield f"recommended: heartbeat {heartbeat_s:g} s, lease {lease_s:g} s"
    yield f"  {recommended.why}"
    yield f"  idle workers wait {waiting}"
