"""`jobspec eval`: any model scored as a job of its own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from jobspec.benchmarks import DEFAULT
from jobspec.checks import check
from jobspec.cli.common import common, current_root, wants_json
from jobspec.cli.new import split_names
from jobspec.cli.output import emit, say
from jobspec.cli.specs import checked_json, enqueue_all, say_findings
from jobspec.spec import builder

_BELOW_JOBS = re.compile(r"/jobs/(?P<job>[a-z0-9-]+)/(?:attempts/\d+/)?(?P<rest>.+)$")


@click.command("eval", no_args_is_help=True)
@click.option("--checkpoint", required=True, metavar="MODEL", help="A directory or a hub name.")
@click.option(
    "--benchmarks", callback=split_names, help=f"Comma-separated. [default: {','.join(DEFAULT)}]"
)
@click.option("--name", help="[default: from the checkpoint]")
@click.option("--set", "settings", metavar="K=V", multiple=True, help="Any field: eval.avg_k=8.")
@click.option("--smoke", is_flag=True, help="Two questions, two samples, 512 tokens.")
@click.option("--priority", type=click.IntRange(0, 999), default=50, show_default=True)
@common
def evaluate(
    checkpoint: str,
    benchmarks: tuple[str, ...],
    name: str | None,
    settings: tuple[str, ...],
    smoke: bool,
    priority: int,
) -> None:
    """Score a model as it is, as a job of its own that trains nothing; prints the job's id.

    \b
    jobspec eval --checkpoint allenai/Olmo-3-7B-Instruct
    jobspec eval --checkpoint out/checkpoint-900 --benchmarks aime24,aime25 --set eval.avg_k=8

    The checks are those of enqueue. The same model with the same settings is no second job: give
    another --name where a directory holds other weights than before.
    """
    request = builder.Request(
        models=[checkpoint],
        train=False,
        benchmarks=benchmarks,
        name=name or name_of(checkpoint),
        settings=settings,
        smoke=smoke,
    )
    (spec,) = builder.build(request)
    one = check.check_spec(spec, Path(checkpoint), current_root())
    say_findings(one)
    ((_, job),) = enqueue_all([one], priority)
    if wants_json():
        found = {"job": job.id, "already": job.already, "state": job.state}
        return emit(found | {**checked_json(one), "file": None})
    if job.already:
        say(f"{job.id}: was enqueued before, and is {job.state}; --name makes another")
    click.echo(job.id)
    return None


def name_of(checkpoint: str) -> str:
    """`eval-<checkpoint>`; a checkpoint of one of the root's jobs is named after that job."""
    path = Path(checkpoint).expanduser()
    found = _BELOW_JOBS.search(str(path.absolute())) if path.is_dir() else None
    last = f"{found['job']}-{Path(found['rest']).name}" if found else checkpoint.rstrip("/")
    slug = re.sub(r"[^a-z0-9._]+", "-", last.rpartition("/")[2].lower()).strip("-._")
    return f"eval-{slug or 'model'}"[:100]


# The table of commands looks them up by name.
eval = evaluate
