"""`jobspec audit`: whether what this project promises holds for a spec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from jobspec.checks import check, rows
from jobspec.cli.common import common, current_root, wants_json
from jobspec.cli.output import emit_struct, plural
from jobspec.records.audit import AuditedPart, ResumeAudit
from jobspec.spec import parsing


@click.group()
def audit() -> None:
    """Test whether a killed and resumed training ends with the same bits.

    \b
    jobspec audit resume specs/qwen3-8b-lr1e-5.json
    """


@audit.command()
@click.argument("file", metavar="SPEC", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--ranks",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs, or without GPUs processes on the CPU.",
)
@click.option(
    "--kills",
    type=click.IntRange(1, 4),
    default=3,
    show_default=True,
    help="How often the second training is killed.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Decides where it is killed; the same seed kills at the same places.",
)
@common
def resume(file: Path, ranks: int, kills: int, seed: int) -> None:
    """Train a small version of SPEC twice, once killed and resumed, and compare every bit.

    \b
    jobspec audit resume specs/qwen3-8b-lr1e-5.json
    jobspec audit resume specs/qwen3-8b-lr1e-5.json --ranks 2 --kills 4 --seed 7

    It keeps the architecture, tokenizer, data and settings, and makes layers, rows and steps few;
    weights are random, so those of the model are not needed. Real workers run it in a temporary
    root. All processes are killed (SIGKILL) in a step, during a save, after one, or at an epoch's
    end. It compares losses, rows, checkpoints and final weights, and exits with 1 if any differs.
    """
    completed = check.complete(parsing.load(file), file)
    made = rows.audit_resume(completed, current_root(), ranks=ranks, kills=kills, seed=seed)
    if wants_json():
        emit_struct(made)
    else:
        for line in lines_of(made):
            click.echo(line)
    click.get_current_context().exit(0 if made.identical else 1)


def lines_of(made: ResumeAudit) -> Iterator[str]:
    """The audit as lines of text."""
    ranks, kills = plural(made.ranks, "rank"), plural(len(made.kills), "kill")
    yield f"{made.spec}: {plural(made.steps, 'step')} on {ranks}, {kills}, seed {made.seed}"
    for kill in made.kills:
        after = "began again" if kill.resumed_from is None else f"resumed from {kill.resumed_from}"
        yield f"  attempt {kill.attempt} killed {kill.point}, step {kill.step}; {after}"
    yield ""
    for part in made.parts:
        yield _part_line(part)
    yield ""
    first = made.first
    if first is None:
        missing = [part.name for part in made.parts if not part.compared]
        outcome = f"not compared: {', '.join(missing)}" if missing else "every bit is identical"
        yield f"{outcome}; took {made.seconds:.0f} s"
        return
    part, found = first
    where = f"at step {found.step}" if found.step is not None else "in the final model"
    yield f"the runs differ first {where}, {part.name}: {found.place}"
    yield f"  uninterrupted  {found.uninterrupted}"
    yield f"  resumed        {found.resumed}"


def _part_line(part: AuditedPart) -> str:
    if not part.different:
        mark = click.style("identical", fg="green") if part.compared else "not compared"
        return f"  {part.name:<22}  {mark}  {part.compared:,} compared"
    largest = part.largest_difference
    size = f", by at most {largest:.3g}" if largest is not None else ""
    mark = click.style("different", fg="red")
    return f"  {part.name:<22}  {mark}  {part.different:,} of {part.compared:,}{size}"
