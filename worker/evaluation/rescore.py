"""Score an attempt again from its raw samples, without a model: `python -m
worker.evaluation.rescore DIR`.

Writes `scores.jsonl` of every benchmark again, then `eval.json`, then the metrics in `result.json`
if there is one. Each file is replaced atomically. Prints the changes as JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from jobspec.benchmarks import registry
from jobspec.errors import BenchmarkError, JobspecError
from jobspec.records import base as records
from jobspec.records import evaluation, exit_codes
from jobspec.records.answers import ErrorAnswer, ErrorDetails, Rescored
from jobspec.records.attempt import Result
from jobspec.records.base import UNSET, Record
from jobspec.records.phases import EVAL
from jobspec.records.reports import EvalReport, ModelScores, ScoringProtocol
from jobspec.results.benchmark_scores import BenchmarkResult, make_result
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, EvaluationPaths, RootPaths
from worker.evaluation import scoring
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import READER
from worker.lm_eval_tasks import nltk_data
from worker.program import run_program


def rescore(attempt: AttemptPaths) -> Rescored:
    """Score every benchmark of an attempt again.

    Raises:
        BenchmarkError: there are no samples, or not all of them.
    """
    every = evaluation.benchmark_dirs(attempt.eval)
    found = {name: path for name, path in every.items() if _is_ours(path)}
    if not found:
        only = "; lm-eval's own tasks are scored only once" if every else ""
        raise BenchmarkError(f"there are no samples to score{only}", file=attempt.eval)
    with MathGrader() as math:
        results = {name: _score(path, math) for name, path in found.items()}
    finals = [result for name, result in results.items() if "/" not in name]
    before = EVAL.read(attempt) or EvalReport()
    metrics = _metrics(finals)
    old = before.metrics
    changed = {name: (old.get(name), v) for name, v in metrics.items() if old.get(name) != v}
    report = _merged(before, results, metrics)
    fs.publish(attempt.done(EVAL.name), records.encode(report))
    result = records.read(attempt.result, Result)
    if result is not None:
        result = replace(result, metrics=result.metrics | metrics, protocol=report.protocol)
        fs.publish(attempt.result, records.encode(result))
    return Rescored(benchmarks=tuple(found), changed=changed)


def _is_ours(directory: Path) -> bool:
    return registry.get(evaluation.read_plan(directory).benchmark) is not None


def _score(directory: Path, math: MathGrader) -> BenchmarkResult:
    plan, questions, drawn = evaluation.read_generations(directory)
    benchmark = registry.get(plan.benchmark)
    if benchmark is None:
        raise BenchmarkError(f"`{plan.benchmark}` is none of jobspec's benchmarks", file=directory)
    asked = [(question, drawn[question.id]) for question in questions]
    scores = scoring.score(benchmark, plan, asked, math)
    fs.publish(EvaluationPaths(directory).scores, evaluation.to_lines(scores))
    plan = replace(plan, protocol=_with_reader(plan.protocol))
    fs.publish(EvaluationPaths(directory).plan, evaluation.to_lines([plan]))
    return make_result(benchmark, plan, scores)


def _with_reader(protocol: ScoringProtocol) -> ScoringProtocol:
    """The protocol with what reads answers now."""
    version = importlib.metadata.version("math-verify")
    return replace(protocol, answer_reader=READER, math_verify_version=version)


def _metrics(results: Sequence[BenchmarkResult]) -> dict[str, float | None]:
    return {f"bench/{r.benchmark}/{name}": v for r in results for name, v in r.metrics.items()}


def _merged(
    before: EvalReport, results: dict[str, BenchmarkResult], metrics: dict[str, float | None]
) -> EvalReport:
    """The report with the new numbers. The results of lm-eval's own tasks are kept."""
    finals = [result for name, result in results.items() if "/" not in name]

    def with_new(model: ModelScores) -> ModelScores:
        mine = [r for name, r in results.items() if name.rpartition("/")[0] == model.name]
        new = metrics if model.name == "final" else _metrics(mine)
        return replace(model, metrics=model.metrics | new)

    return replace(
        before,
        metrics=before.metrics | metrics,
        intervals=before.intervals | {each.benchmark: each.intervals for each in finals},
        protocol=before.protocol | {each.benchmark: each.protocol for each in finals},
        checkpoints=tuple(with_new(model) for model in before.checkpoints)
        if before.checkpoints
        else UNSET,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker.evaluation.rescore", description=__doc__
    )
    parser.add_argument("attempt_dir", type=Path)
    attempt = AttemptPaths(parser.parse_args().attempt_dir.absolute())
    try:
        with nltk_data.readable(RootPaths(attempt.dir.parents[3]).nltk_data):
            answer: Record = rescore(attempt)
    except JobspecError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.stderr.write(f"rescore: {error}{hint}\n")
        answer = ErrorAnswer(error=ErrorDetails.of(error))
    sys.stdout.buffer.write(records.encode_line(answer))
    return exit_codes.REFUSED if isinstance(answer, ErrorAnswer) else exit_codes.DONE


if __name__ == "__main__":
    run_program(main)
