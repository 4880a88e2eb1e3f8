"""`jobspec doctor`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from jobspec.cli.common import common, current_root, wants_json
from jobspec.cli.output import emit_struct, say
from jobspec.doctor import run as doctors
from jobspec.doctor.measurements import Advice, Check, Diagnosis

_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


@click.command()
@click.option(
    "--wait-for",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Measure across hosts: N of these commands, one on each, on the same root.",
)
@click.option("--peer", metavar="NAME", help="This one's name among them. [default: the host's]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    help="About how long it may take; a quarter of it is how long a change is waited for.",
)
@common
def doctor(wait_for: int, peer: str | None, seconds: float) -> None:
    """Measure the root, or the directory it would be made in, and say what to change.

    \b
    jobspec doctor
    srun -N2 --ntasks-per-node=1 jobspec doctor --wait-for 2

    Tried are renames raced by several processes, how late changes are seen, fsync, clocks,
    permissions, lengths of paths, room and notifications. Nothing stays behind.
    """
    told = doctors.examine(current_root(), seconds=seconds, name=peer, wait_for=wait_for, tell=say)
    if wants_json():
        emit_struct(told)
    else:
        for line in _lines(told):
            click.echo(line)
    click.get_current_context().exit(0 if told.well else 1)


def _lines(told: Diagnosis) -> Iterator[str]:
    yield click.style(told.root, bold=True)
    yield from _check_lines(told.checks)
    if told.advice is not None:
        yield ""
        yield from _advice_lines(told.advice)


def _check_lines(checks: list[Check]) -> Iterator[str]:
    for check in checks:
        mark = click.style(f"{check.verdict:<4}", fg=_COLOURS[check.verdict])
        yield f"  {mark}  {check.check:<13}  {check.told}"
        if check.hint:
            yield f"        {'':<13}  {click.style('hint: ', fg='cyan')}{check.hint}"


def _advice_lines(advice: Advice) -> Iterator[str]:
    polls = f"one listing after {advice.poll_s:g} s, rising to {advice.longest_poll_s:g} s"
    waits = "notifications" if advice.notifications else polls
    yield f"recommended: heartbeat {advice.heartbeat_s:g} s, lease {advice.lease_s:g} s"
    yield f"  {advice.why}"
    yield f"  idle workers wait by {waits}"
