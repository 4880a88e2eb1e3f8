"""`jobspec eval`: enqueue a job that only scores a model."""

from __future__ import annotations

import re
from pathlib import Path

import click

from jobspec.checks import check
from jobspec.cli.common import (
    common,
    create_option,
    current_root,
    priority_option,
    wants_json,
)
from jobspec.cli.findings import say_findings
from jobspec.cli.new import benchmarks_option
from jobspec.cli.output import emit, say
from jobspec.cli.progress import waiting
from jobspec.cli.specs import checked_json, enqueue_all
from jobspec.spec import builder

_BELOW_JOBS = re.compile(r"/jobs/(?P<job>[a-z0-9-]+)/(?:attempts/\d+/)?(?P<rest>.+)$")


@click.command("eval", no_args_is_help=True)
@click.option(
    "--checkpoint", required=True, metavar="MODEL", help="Hub name or directory of the model."
)
@benchmarks_option
@click.option("--name", help="Name of the job.  [default: from the checkpoint]")
@click.option(
    "--set",
    "settings",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Set any field of the spec, e.g. eval.avg_k=8; may be repeated.",
)
@click.option(
    "--smoke", is_flag=True, help="Ask 2 questions, with 2 answers of up to 512 tokens each."
)
@priority_option
@create_option
@common
def evaluate(
    checkpoint: str,
    benchmarks: tuple[str, ...],
    name: str | None,
    settings: tuple[str, ...],
    smoke: bool,
    priority: int,
) -> None:
    """Enqueue a job that scores a model without training it, and print the job's id.

    \b
    jobspec eval --checkpoint allenai/Olmo-3-7B-Instruct
    jobspec eval --checkpoint out/checkpoint-900 --benchmarks aime24,aime25
    jobspec eval --checkpoint Qwen/Qwen3-8B --set eval.avg_k=8

    It makes the same checks as `jobspec enqueue`. The same model with the same settings is the same
    job and is not enqueued twice. If a directory now contains other weights, give another --name.
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
    with waiting("checking the spec") as wait:
        one = check.check_spec(spec, Path(checkpoint), current_root(), tell=wait.tell)
    say_findings([one])
    ((_, job),) = enqueue_all([one], priority)
    if wants_json():
        enqueued = {"job": job.id, "already": job.already, "state": job.state}
        return emit(enqueued | {**checked_json(one), "file": None})
    if job.already:
        say(f"{job.id} was enqueued before and is {job.state}; --name makes a new job")
    click.echo(job.id)
    return None


def name_of(checkpoint: str) -> str:
    """`eval-<checkpoint>`; for a checkpoint of a job in this root, the job's id is included."""
    path = Path(checkpoint).expanduser()
    match = _BELOW_JOBS.search(str(path.absolute())) if path.is_dir() else None
    last = f"{match['job']}-{Path(match['rest']).name}" if match else checkpoint.rstrip("/")
    slug = re.sub(r"[^a-z0-9._]+", "-", last.rpartition("/")[2].lower()).strip("-._")
    return f"eval-{slug or 'model'}"[:100]


# `jobspec.cli` looks up commands by this name.
eval = evaluate
