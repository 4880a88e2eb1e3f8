"""`jobspec replay`."""

from __future__ import annotations

from pathlib import Path

import click

from jobspec.bundle import read_bundle
from jobspec.bundle import replay as replays
from jobspec.bundle.read_bundle import CheckedBundle
from jobspec.checks import check
from jobspec.cli.common import (
    common,
    complete_jobs,
    create_option,
    current_root,
    open_queue,
    priority_option,
    wants_json,
)
from jobspec.cli.output import emit, say
from jobspec.cli.specs import enqueue_all, say_findings
from jobspec.cli.verify import print_finding


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Set a field, e.g. a path that was replaced; may be repeated.",
)
@click.option(
    "--compare",
    "job",
    metavar="JOB",
    shell_complete=complete_jobs,
    help="Compare a job that has ended with the bundle instead.",
)
@priority_option
@create_option
@common
def replay(bundle: Path, settings: tuple[str, ...], job: str | None, priority: int) -> None:
    """Enqueue the spec of a bundle, and compare the results.

    \b
    jobspec replay published.bundle.tar.gz --set data.path=/data/train.jsonl
    jobspec replay published.bundle.tar.gz --compare qwen3-8b-lr1e-5

    First it lists how this environment differs from the bundle's. Paths in the spec that the bundle
    hides have to be given with --set. The job gets the bundle's id if these are the same as there.
    """
    with read_bundle.opened(bundle) as found:
        if job is not None:
            return _compare(found, job)
        return _enqueue(found, settings, priority)


def _enqueue(bundle: CheckedBundle, settings: tuple[str, ...], priority: int) -> None:
    environment = replays.environment_here(bundle)
    for each in environment:
        say(f"{each.what}: {each.bundle or 'none'} in the bundle, {each.here or 'not known'} here")
    spec = replays.spec_of(bundle, settings)
    one = check.check_spec(spec, bundle.place, current_root())
    say_findings([one])
    ((_, job),) = enqueue_all([one], priority)
    same = job.id == bundle.about.job
    if wants_json():
        return emit(
            {
                "job": job.id,
                "same_id": same,
                "already": job.already,
                "state": job.state,
                "environment": environment,
            }
        )
    if not same:
        say(f"the bundle's job is {bundle.about.job}: the paths in its spec were others")
    if job.already:
        say(f"{job.id} was enqueued before and is {job.state}")
    click.echo(job.id)
    return None


def _compare(bundle: CheckedBundle, name: str) -> None:
    job = open_queue(write=False).job(name)
    findings = list(replays.compare(bundle, job))
    outside = any(f.check == "scores" and f.outcome == "differs" for f in findings)
    if wants_json():
        emit({"job": job.id, "findings": findings})
    else:
        for each in findings:
            print_finding(each)
    click.get_current_context().exit(1 if outside else 0)
