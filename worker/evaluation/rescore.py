"""Score an attempt again from its raw samples, without a model: `python -m
worker.evaluation.rescore DIR`.

Writes `scores.jsonl` of every benchmark again, then `eval.json`, then the metrics in `result.json`
if there is one. Each file is replaced atomically. Prints the changes as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobspec.benchmarks import registry
from jobspec.errors import BenchmarkError, JobspecError
from jobspec.records import evaluation, exit_codes
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, EvaluationPaths
from worker.evaluation import scoring
from worker.evaluation.math_grader import MathGrader
from worker.evaluation.scoring import BenchmarkResult


def rescore(attempt: AttemptPaths) -> dict[str, Any]:
    """Score everything again.

    Returns:
        `{"benchmarks": [names], "changed": {metric: [before, now]}}`.

    Raises:
        BenchmarkError: there are no samples, or not all of them.
    """
    found = evaluation.benchmark_dirs(attempt.eval)
    if not found:
        raise BenchmarkError("there are no samples to score", file=attempt.eval)
    with MathGrader() as math:
        results = {name: _score(path, math) for name, path in found.items()}
    finals = [result for name, result in results.items() if "/" not in name]
    before = _read(attempt.done("eval"))
    metrics = _metrics(finals)
    old = before.get("metrics", {})
    changed = {k: [old.get(k), v] for k, v in metrics.items() if old.get(k) != v}
    _replace(attempt.done("eval"), _summary(before, results, metrics))
    result = _read(attempt.result)
    if result:
        _replace(attempt.result, {**result, "metrics": {**result.get("metrics", {}), **metrics}})
    return {"benchmarks": list(found), "changed": changed}


def _score(directory: Path, math: MathGrader) -> BenchmarkResult:
    plan, questions, drawn = evaluation.read_generations(directory)
    benchmark = registry.get(plan.benchmark)
    if benchmark is None:
        raise BenchmarkError(f"`{plan.benchmark}` is none of jobspec's benchmarks", file=directory)
    asked = [(question, drawn[question.id]) for question in questions]
    scores = scoring.score(benchmark, plan, asked, math)
    fs.publish(EvaluationPaths(directory).scores, evaluation.to_lines(scores))
    return BenchmarkResult(
        benchmark=plan.benchmark,
        metrics={
            name: metric(scores) for name, metric in scoring.metrics(benchmark, plan.k).items()
        },
        intervals=scoring.intervals(scores, plan.k),
        protocol=plan.protocol,
    )


def _metrics(results: Sequence[BenchmarkResult]) -> dict[str, float | None]:
    return {f"bench/{r.benchmark}/{name}": v for r in results for name, v in r.metrics.items()}


def _summary(
    before: dict[str, Any], results: dict[str, BenchmarkResult], metrics: dict[str, float | None]
) -> dict[str, Any]:
    """`eval.json` with the new numbers. The results of lm-eval's own tasks are kept."""
    finals = {name: result for name, result in results.items() if "/" not in name}
    intervals = {result.benchmark: result.intervals for result in finals.values()}
    protocol = {result.benchmark: result.protocol for result in finals.values()}
    summary = {
        **before,
        "metrics": {**before.get("metrics", {}), **metrics},
        "intervals": {**before.get("intervals", {}), **intervals},
        "protocol": {**before.get("protocol", {}), **protocol},
    }
    for epoch in summary.get("checkpoints", []):
        mine = [r for name, r in results.items() if name.rpartition("/")[0] == epoch["name"]]
        epoch["metrics"] |= metrics if epoch["name"] == "final" else _metrics(mine)
    return summary


def _read(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return {}


def _replace(path: Path, value: dict[str, Any]) -> None:
    fs.publish(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker.evaluation.rescore", description=__doc__
    )
    parser.add_argument("attempt_dir", type=Path)
    try:
        changes = rescore(AttemptPaths(parser.parse_args().attempt_dir.absolute()))
    except JobspecError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.stderr.write(f"rescore: {error}{hint}\n")
        fields = ("message", "hint", "file", "place")
        refused = {"error": {field: getattr(error, field) for field in fields}}
        sys.stdout.write(json.dumps(refused) + "\n")
        return exit_codes.REFUSED
    sys.stdout.write(json.dumps(changes) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
