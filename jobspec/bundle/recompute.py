"""Computes the scores of a bundle again from its samples, with the functions of the worker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobspec.benchmarks import registry
from jobspec.bundle.about import AboutBundle
from jobspec.bundle.findings import BundleFinding
from jobspec.bundle.stated_facts import protocol_faults, question_faults, seed_faults
from jobspec.errors import JobspecError
from jobspec.records import evaluation
from jobspec.records.evaluation import AskedQuestion, Generation, QuestionScore, SamplingPlan
from jobspec.records.phases import EVAL
from jobspec.records.reports import EvalReport
from jobspec.results.benchmark_scores import BenchmarkResult, make_result
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import AttemptPaths, EvaluationPaths

Numbers = dict[str, float | None]


def check_scores(
    attempt: AttemptPaths, about: AboutBundle, spec: JobSpec
) -> Iterator[BundleFinding]:
    """Whether samples, scores, metrics and intervals of an attempt fit together, and the spec."""
    report = EVAL.read(attempt)
    if report is None:
        return
    directories = evaluation.benchmark_dirs(attempt.eval)
    missing = sorted(name for name in report.protocol if name not in directories)
    for name in missing:
        yield BundleFinding.unknown(
            "scores", f"`{name}` has no samples here", _file(attempt, attempt.eval)
        )
    for name, directory in directories.items():
        yield from _check_benchmark(name, directory, report, attempt, about, spec)


def _check_benchmark(
    name: str,
    directory: Path,
    report: EvalReport,
    attempt: AttemptPaths,
    about: AboutBundle,
    spec: JobSpec,
) -> Iterator[BundleFinding]:
    paths = EvaluationPaths(directory)
    file = _file(attempt, paths.scores)
    plan = evaluation.read_plan(directory)
    benchmark = registry.get(plan.benchmark)
    if benchmark is None:
        yield BundleFinding.unknown(
            "scores", f"`{name}` is lm-eval's own task: only lm-eval computes its scores", file
        )
        return
    try:
        plan, questions, drawn = evaluation.read_generations(directory)
        scores = evaluation.read_scores(directory)
    except JobspecError as error:
        yield BundleFinding.differs("samples", error.message, file)
        return
    faults = list(_misfits(plan, questions, drawn, scores))
    number = sum(len(rows) for rows in drawn.values())
    what = f"`{name}`: {number:,} samples of {len(questions):,} questions"
    yield BundleFinding.of("samples", faults, f"{what} fit their scores", file)
    if not faults:
        result = make_result(benchmark, plan, scores)
        yield from _compare(name, result, report, file)
    is_replaced = _file(attempt, paths.questions) in about.replaced
    faults = [
        *protocol_faults(name, plan.benchmark, plan.protocol, report, spec.eval),
        *question_faults(plan.protocol, questions, replaced=is_replaced),
        *seed_faults(about.job, plan.benchmark, drawn),
    ]
    what = f"`{name}`: asked as the spec says, with the seeds of this job"
    yield BundleFinding.of("protocol", faults, what, _file(attempt, paths.plan))


def _compare(
    name: str, result: BenchmarkResult, report: EvalReport, file: str
) -> Iterator[BundleFinding]:
    """Whether the recomputed numbers are those of the report, to the last digit."""
    epoch, _, benchmark = name.rpartition("/")
    stated = report.metrics
    if epoch:
        models = {model.name: model.metrics for model in report.checkpoints or ()}
        stated = models.get(epoch, {})
    computed = {f"bench/{benchmark}/{metric}": value for metric, value in result.metrics.items()}
    faults = list(_unequal(computed, stated))
    main = next(iter(result.metrics))
    what = f"`{name}`: {main} {result.metrics[main]} and {len(computed) - 1} more metrics"
    if not epoch:
        bounds = report.intervals.get(benchmark, {})
        faults += _unequal_bounds(benchmark, result.intervals, bounds)
        what += f", {len(result.intervals)} intervals"
    yield BundleFinding.of("scores", faults, f"{what} are the same to the last digit", file)


def _unequal(computed: Numbers, stated: Numbers) -> Iterator[str]:
    for key, value in computed.items():
        if key not in stated:
            yield f"`{key}` is not stated; the samples give {value!r}"
        elif not _same(value, stated[key]):
            yield f"`{key}` is stated as {stated[key]!r}; the samples give {value!r}"


def _unequal_bounds(
    name: str,
    computed: dict[str, tuple[float | None, float | None]],
    stated: dict[str, tuple[float | None, float | None]],
) -> list[str]:
    return [
        f"the interval of `{name}` over {kind} is stated as {list(stated.get(kind, ()))}; "
        f"the samples give {list(bounds)}"
        for kind, bounds in computed.items()
        if len(found := stated.get(kind, ())) != 2 or not all(map(_same, bounds, found))
    ]


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def _misfits(
    plan: SamplingPlan,
    questions: Sequence[AskedQuestion],
    drawn: dict[str, list[Generation]],
    scores: Sequence[QuestionScore],
) -> Iterator[str]:
    """Where scores do not belong to the samples."""
    if [question.id for question in questions] != [score.id for score in scores]:
        yield "the scores are of other questions"
        return
    if drawn.keys() != {question.id for question in questions}:
        yield "there are samples of other questions"
        return
    for question, score in zip(questions, scores, strict=True):
        rows = drawn[question.id]
        if question.answer != score.answer:
            yield f"question `{question.id}` was scored against another answer"
        elif len(score.samples) != plan.k:
            yield f"question `{question.id}` has {len(score.samples)} scores instead of {plan.k}"
        else:
            yield from _misfits_of(question, rows, score, plan)


def _misfits_of(
    question: AskedQuestion, rows: Sequence[Generation], score: QuestionScore, plan: SamplingPlan
) -> Iterator[str]:
    for row, judged in zip(rows, score.samples, strict=True):
        where = f"sample {row.sample} of question `{question.id}`"
        if judged.sample != row.sample or judged.tokens != row.tokens:
            yield f"{where} has another number or other tokens than its score"
        stopped = bool(plan.protocol.stop_after_thinking)
        if judged.truncated != (row.finish == "length") and not stopped:
            yield f"{where} was cut off or not, and its score says the opposite"
        if judged.right and (judged.answer is None or judged.truncated):
            yield f"{where} counts as right, but gave no answer"


def _file(attempt: AttemptPaths, path: Path) -> str:
    return path.relative_to(attempt.job_dir).as_posix()
