"""`jobspec rescore`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from jobspec import worker_command
from jobspec.cli.common import common, jobs_argument, open_queue, wants_json
from jobspec.cli.output import complain, emit, error_json, say
from jobspec.cli.progress import waiting
from jobspec.errors import JobspecError, TransitionRefused
from jobspec.queue.job import Job
from jobspec.records.answers import Rescored
from jobspec.records.base import FINAL
from jobspec.results.evaluations import evaluated_attempt


@click.command()
@jobs_argument()
@common
def rescore(jobs: tuple[str, ...]) -> None:
    """Score the samples of ended jobs again, without running a model.

    \b
    jobspec rescore qwen3-8b-lr1e-5
    jobspec rescore 'qwen3-*'

    Use it after answer extraction was corrected. The worker's code does the work: from this
    environment, or from the image that $JOBSPEC_WORKER_COMMAND names. Prints what changed.
    """
    done: list[dict[str, Any]] = []
    failed: list[JobspecError] = []
    chosen = open_queue().select(jobs)
    with waiting("scoring jobs again", len(chosen)) as wait:
        for job in wait.each(chosen):
            wait.tell(job.id)
            try:
                done.append({"job": job.id, **_rescore(job)})
            except JobspecError as error:
                failed.append(error)
    if failed:
        complain(failed, as_json=False)
    if wants_json():
        emit({"jobs": done, "errors": [error_json(error) for error in failed]})
    else:
        for each in done:
            _print(each)
    click.get_current_context().exit(1 if failed else 0)


def _rescore(job: Job) -> dict[str, Any]:
    """Score the evaluated attempt again, and return what changed."""
    if job.state not in FINAL:
        raise TransitionRefused(
            f"`{job.id}` is {job.state}: its attempt is its worker's",
            hint="`jobspec wait` waits for its end",
        )
    attempt = evaluated_attempt(job)
    # The image has the root mounted under the same absolute path.
    place = str(attempt.dir.absolute())
    what = f"`{job.id}` can't be scored again"
    answer = worker_command.ask(Rescored, "worker.evaluation.rescore", [place], what=what)
    return {"attempt": attempt.number, **msgspec.structs.asdict(answer)}


def _print(each: dict[str, Any]) -> None:
    if not each["changed"]:
        say(f"{each['job']}: {', '.join(each['benchmarks'])} scored again, nothing changed")
    for metric, (before, now) in each["changed"].items():
        click.echo(f"{each['job']}  {metric}  {_spell(before)} → {_spell(now)}")


def _spell(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
