"""`jobspec samples`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import click

from jobspec.benchmarks.registry import canonical_name
from jobspec.cli.common import common, complete_jobs, open_queue, wants_json
from jobspec.cli.output import emit, plural, say
from jobspec.cli.progress import waiting
from jobspec.errors import BenchmarkError
from jobspec.queue.job import Job
from jobspec.records import evaluation
from jobspec.records.evaluation import Sample
from jobspec.records.phases import EVAL
from jobspec.records.reports import EvalReport
from jobspec.results import inspect_log
from jobspec.results.evaluations import evaluated_attempt
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, EvaluationPaths

_SHOWN = 10
_READ = 60  # characters
# A model's text must not move the cursor or colour the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@click.command()
@click.argument("job", shell_complete=complete_jobs)
@click.option(
    "--benchmark",
    metavar="NAME",
    help="Benchmark to show; EPOCH/NAME for an epoch's.  [default: the only one]",
)
@click.option("--wrong", is_flag=True, help="Only samples that were graded as wrong.")
@click.option(
    "--question",
    "ids",
    metavar="ID",
    multiple=True,
    help="Only samples of this question; may be repeated.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"Maximum number of samples.  [default: {_SHOWN}; all with --json]",
)
@click.option(
    "--inspect",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write all benchmarks, or the one named, as logs for `inspect view` into this directory.",
)
@common
def samples(
    job: str,
    benchmark: str | None,
    wrong: bool,
    ids: tuple[str, ...],
    limit: int | None,
    inspect: Path | None,
) -> None:
    """Show prompts, responses, extracted answers and how they were graded.

    \b
    jobspec samples qwen3-8b-lr1e-5 --benchmark aime24 --wrong
    jobspec samples qwen3-8b-lr1e-5 --benchmark aime24 --question 2024-I-3
    jobspec samples qwen3-8b-lr1e-5 --inspect logs
    """
    wanted = open_queue(write=False).job(job)
    if inspect is not None:
        return _write_logs(wanted, benchmark, inspect)
    directory = _directory(evaluated_attempt(wanted), benchmark)
    with waiting("reading samples"):
        every = list(evaluation.samples(directory))
    _refuse_unknown(ids, every)
    chosen = [
        sample
        for sample in every
        if not (wrong and sample.right) and (not ids or sample.question in ids)
    ]
    if wants_json():
        return emit({"job": wanted.id, "total": len(chosen), "samples": chosen[:limit]})
    shown = chosen[: limit or _SHOWN]
    for line in _lines(shown):
        click.echo(line)
    right = f"{sum(sample.right for sample in every):,} of {len(every):,} right"
    say(f"{len(shown):,} of {plural(len(chosen), 'sample')} shown; {right}")
    return None


def _write_logs(job: Job, benchmark: str | None, target: Path) -> None:
    """Write a log of each benchmark that inspect_ai can read."""
    attempt = evaluated_attempt(job)
    named = evaluation.benchmark_dirs(attempt.eval)
    if benchmark is not None:
        wanted = _directory(attempt, benchmark)
        named = {name: path for name, path in named.items() if path == wanted}
    scores = (EVAL.read(attempt) or EvalReport()).metrics
    fs.make_dir(target)
    written: list[str] = []
    for name, directory in named.items():
        made = datetime.fromtimestamp(EvaluationPaths(directory).scores.stat().st_mtime, UTC)
        log = inspect_log.to_log(
            job.id,
            name,
            job.spec.model.name,
            made,
            list(evaluation.samples(directory)),
            plan=evaluation.read_plan(directory),
            metrics={
                key.removeprefix(f"bench/{name}/"): value
                for key, value in scores.items()
                if key.startswith(f"bench/{name}/")
            },
        )
        path = target / inspect_log.file_name(job.id, name, made)
        fs.publish(path, log)
        written.append(str(path))
    if wants_json():
        return emit({"job": job.id, "logs": written})
    for path in written:
        click.echo(path)
    return say(f"`inspect view --log-dir {target}` shows them")


def _directory(attempt: AttemptPaths, benchmark: str | None) -> Path:
    directories = evaluation.benchmark_dirs(attempt.eval)
    named = benchmark or (next(iter(directories)) if len(directories) == 1 else None)
    if named is not None and named not in directories:
        named = canonical_name(named)
    if named not in directories:
        wrong = "name one with --benchmark" if benchmark is None else f"no benchmark `{benchmark}`"
        raise BenchmarkError(wrong, file=attempt.dir, hint=f"the job has {', '.join(directories)}")
    return directories[named]


def _refuse_unknown(ids: Sequence[str], every: Sequence[Sample]) -> None:
    known = dict.fromkeys(sample.question for sample in every)
    for name in ids:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or list(known)[:1]
            raise BenchmarkError(
                f"no question `{name}`", hint=f"ids look like `{near[0]}`" if near else None
            )


def _lines(shown: Sequence[Sample]) -> Iterator[str]:
    for question, group in groupby(shown, key=lambda sample: sample.question):
        mine = list(group)
        yield click.style(f"── question {question}, answer {_plain(mine[0].expected)}", bold=True)
        yield click.style(_plain(mine[0].prompt).rstrip("\n"), dim=True)
        for sample in mine:
            yield _sample_line(sample)
            yield _plain(sample.response).rstrip("\n")
        yield ""


def _sample_line(sample: Sample) -> str:
    answer = "no answer" if sample.answer is None else f"answered {_plain(sample.answer)}"
    facts = [answer, *_reading(sample), plural(sample.tokens, "token")]
    facts += ["cut off by length"] * sample.truncated + ["thinking never closed"] * sample.unclosed
    outcome = "right" if sample.right else "wrong"
    mark = click.style(outcome, fg="green" if sample.right else "red", bold=True)
    return f"── sample {sample.sample}: {mark}, {', '.join(facts)}"


def _reading(sample: Sample) -> list[str]:
    """By which rule an answer was read, and the text that was read where it differs."""
    if sample.rule is None:
        return []
    read = sample.read if sample.read != sample.answer else None
    return [f"rule: {sample.rule}" + (f" ({_plain(read)[:_READ]})" if read else "")]


def _plain(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
