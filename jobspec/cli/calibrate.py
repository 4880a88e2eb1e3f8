"""`jobspec calibrate`: compares scores of original models with published ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from jobspec.benchmarks import DEFAULT, published, registry
from jobspec.benchmarks.published import PublishedResult
from jobspec.checks import check
from jobspec.cli.common import (
    common,
    create_option,
    current_root,
    priority_option,
    wants_json,
)
from jobspec.cli.findings import say_findings
from jobspec.cli.new import split_names
from jobspec.cli.output import Cell, Column, Table, emit, say, warn
from jobspec.cli.progress import waiting
from jobspec.cli.specs import enqueue_all
from jobspec.errors import BenchmarkError, SpecError
from jobspec.queue.job import Job
from jobspec.records.base import State
from jobspec.results import calibration
from jobspec.results.calibration import CalibrationRow
from jobspec.results.table import short
from jobspec.spec import builder
from jobspec.spec.schema import JobSpec

_SETTABLE = ("eval", "resources")  # the groups of a spec that `--set` may change


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Score all models with published scores.")
@click.option(
    "--benchmarks",
    metavar="NAMES",
    callback=split_names,
    help="Benchmarks to score on, separated by commas; with --published, all of its file.  "
    f"[default: {','.join(DEFAULT)}]",
)
@click.option(
    "--set",
    "settings",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Set a field of eval or resources, e.g. eval.limit=50; may be repeated.",
)
@click.option(
    "--at", metavar="DIRECTORY", help="The model's directory, if it is not in the root's cache."
)
@click.option(
    "--published",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File with published scores.  [default: the file that comes with jobspec]",
)
@click.option(
    "--write",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Write the specs to this directory, and enqueue nothing.",
)
@priority_option
@create_option
@common
def calibrate(
    models: tuple[str, ...],
    everything: bool,
    benchmarks: tuple[str, ...],
    settings: tuple[str, ...],
    priority: int,
    **places: Any,
) -> None:
    """Score original models with the published settings, and say whether the scores agree.

    \b
    jobspec calibrate Qwen/Qwen3-8B allenai/Olmo-3-7B-Think
    jobspec calibrate Qwen/Qwen3-8B:thinking --benchmarks gpqa_diamond,ifeval_chat
    jobspec calibrate --all --write specs && jobspec fetch specs/calibrate-*.json

    The first call enqueues the jobs and prints their ids. Call it again when they have ended: it
    prints our score, the published score and the difference, and whether the difference lies within
    the sampling error of both. Do this before you trust the score of a tuned model.
    """
    if bool(models) == everything:
        raise click.UsageError("Name models, or --all.")
    known = published.load(places["published"] or published.FILE)
    entries = known if everything else published.chosen(known, models)
    wanted = [registry.canonical_name(name) for name in benchmarks] or list(DEFAULT)
    if benchmarks or places["published"] is None:
        some = [entry for entry in entries if not everything or entry.scores.keys() & wanted]
        entries = [entry.only(wanted) for entry in some]
    built = [_build(entry, settings, places["at"]) for entry in entries]
    if places["write"] is not None:
        return _write(built, places["write"])
    with waiting("checking specs", len(built)) as wait:
        checked = [
            check.check_spec(spec, Path(spec.name), current_root(), tell=wait.tell)
            for spec in wait.each(built)
        ]
    jobs = [job for _, job in enqueue_all(checked, priority)]
    say_findings([one for one, job in zip(checked, jobs, strict=True) if not job.already])
    return _report(entries, jobs)


def _build(entry: PublishedResult, settings: Sequence[str], place: str | None) -> JobSpec:
    spec = calibration.spec_of(entry, place)
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    for setting in settings:
        if builder.apply(fields, setting)[0] not in _SETTABLE:
            raise SpecError(
                f"`--set {setting}` would score another model or train it",
                hint="only fields of `eval` and `resources` may be set here",
            )
    return builder.decode(fields, settings)


def _write(built: Sequence[JobSpec], directory: Path) -> None:
    paths = [str(path) for path, _ in builder.write(built, directory)]
    if wants_json():
        return emit({"specs": paths})
    return click.echo("\n".join(paths))


def _report(entries: Sequence[PublishedResult], jobs: Sequence[Job]) -> None:
    pairs = list(zip(entries, jobs, strict=True))
    ended = [(entry, job) for entry, job in pairs if job.state is State.SUCCEEDED]
    rows: list[CalibrationRow] = []
    for entry, job in ended:
        try:
            rows += calibration.rows(entry, job)
        except (BenchmarkError, KeyError) as error:
            warn(f"{job.id}: its scores can't be read: {error}")
    if wants_json():
        facts = [
            {"job": job.id, "model": e.model, "variant": e.variant, "state": job.state}
            | {"already": job.already, "source": e.source}
            for e, job in pairs
        ]
        return emit({"jobs": facts, "rows": rows})
    for entry, job in pairs:
        if job.state is not State.SUCCEEDED:
            click.echo(job.id)
            say(f"{entry.name}: {job.state}{_next(job)}")
    for line in _table(rows).lines() if rows else []:
        click.echo(line)
    for source in dict.fromkeys(f"{row.model}:{row.variant}: {row.source}" for row in rows):
        say(source)
    return None


def _next(job: Job) -> str:
    if job.state in (State.FAILED, State.CANCELLED):
        return f"; `jobspec show {job.id}` says why, `jobspec retry` runs it again"
    return "; run this command again when it has ended"


def _table(rows: Sequence[CalibrationRow]) -> Table:
    columns = [Column("model"), Column("variant"), Column("benchmark")]
    columns += [Column(name, right=True) for name in ("ours", "published", "difference")]
    table = Table([*columns, Column("within error")])
    for row in rows:
        agrees = {True: Cell("yes", "green"), False: Cell("no", "red"), None: Cell("unknown")}
        table.add(
            row.model,
            row.variant,
            short(row.benchmark),
            _spell(row.ours, row.ours_error),
            _spell(row.published, row.published_error),
            f"{row.difference:+.1f}",
            agrees[row.within],
            notes=[Cell(f"measured differently: {'; '.join(row.differs)}", "yellow")]
            if row.differs
            else [],
        )
    return table


def _spell(score: float, error: float | None) -> str:
    return f"{score:.1f}" + ("" if error is None else f" ± {error:.1f}")
