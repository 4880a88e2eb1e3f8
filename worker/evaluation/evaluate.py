"""The eval phase: score a model on the spec's benchmarks. `python -m worker.evaluation.evaluate
ATTEMPT_DIR`.

Reads the attempt's `final_model` (and its epochs, with `eval.checkpoints: all`), or the spec's
model if the job trains nothing. Leaves samples and scores in `ATTEMPT_DIR/eval/<benchmark>/`,
those of epochs in `eval/checkpoints/<epoch>/<benchmark>/`, and last of all `eval.json`. An epoch's
adapter is merged into the model while it is scored.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jobspec.benchmarks import question_file
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.records import base as records
from jobspec.records import phases
from jobspec.records.base import UNSET
from jobspec.records.metric_rows import ScoresRow
from jobspec.records.reports import (
    EvalReport,
    GenerationTiming,
    ModelScores,
    ScoringProtocol,
)
from jobspec.spec.schema import EvalSpec
from jobspec.storage import fs
from jobspec.storage.layout import epoch_of
from worker import benchmark_download
from worker.checkpoints import directories
from worker.evaluation.failures import describe, kept_apart, raise_for
from worker.evaluation.models_to_score import ModelToScore, choose_engine, find_models
from worker.imports.quiet import set_library_variables
from worker.inference import children
from worker.lm_eval_tasks import nltk_data
from worker.phase import Phase, run
from worker.program import run_program
from worker.samples.sharing import HelpPlaces, find_places

if TYPE_CHECKING:
    from jobspec.results.benchmark_scores import BenchmarkResult
    from worker.grading.math_grader import MathGrader
    from worker.lm_eval_tasks.task_loading import TaskBenchmark


def main() -> None:
    set_library_variables()
    run(phases.EVAL, evaluate)


def evaluate(phase: Phase) -> None:
    """Score the attempt's models and publish `eval.json`."""
    with nltk_data.readable(phase.root.nltk_data):
        _evaluate(phase)


def _evaluate(phase: Phase) -> None:
    settings = phase.spec.eval
    assert settings is not None, "a job without `eval` has no eval phase"
    cache = phase.root.cache / "benchmarks"
    where = question_file.directories(settings.benchmark_dir, cache)
    models = find_models(phase)
    failures: dict[str, Exception] = {}
    own: list[QuestionSet] = []
    for name in settings.benchmarks:
        if question_file.is_ours(name, where):
            with kept_apart(failures, name):
                own.append(benchmark_download.load(name, where, cache))

    from worker.grading.math_grader import MathGrader
    from worker.imports.quiet import import_transformers

    import_transformers()
    others = [name for name in settings.benchmarks if not question_file.is_ours(name, where)]
    tasks = _load_tasks(others, settings, where, failures)
    reports: list[EvalReport] = []
    with MathGrader() as math:
        for model in models if own or tasks else ():
            with _merged(phase, model) as whole:
                scoring = _Scoring(phase, settings, whole, (len(reports), len(models)))
                reports.append(scoring.run(own, tasks, math, failures))
            epoch = UNSET if model.epoch is None else model.epoch
            if reports[-1].metrics:
                phase.metric(ScoresRow(epoch=epoch, metrics=reports[-1].metrics))
    if failures:
        _publish_partly(phase, reports[-1] if reports else EvalReport(), failures)
        raise_for(failures, scored=len(settings.benchmarks) - len(failures))
    report = msgspec.structs.replace(
        reports[-1],
        seconds=round(phase.elapsed_s, 3),
        checkpoints=model_scores(models, reports) if len(models) > 1 else UNSET,
    )
    fs.remove_tree(phase.job.help)  # all of it is in this attempt's own files now
    phase.finish(report)


def _load_tasks(
    names: Sequence[str],
    settings: EvalSpec,
    where: Sequence[Path],
    failures: dict[str, Exception],
) -> list[TaskBenchmark]:
    """lm-eval's own tasks, before anything is generated."""
    if not names:
        return []
    from worker.imports.quiet import quiet
    from worker.lm_eval_tasks.task_loading import TaskLibrary

    tasks: list[TaskBenchmark] = []
    with quiet():
        library = TaskLibrary(settings, where)
        for name in names:
            with kept_apart(failures, name):
                tasks.append(library.load(name))
    return tasks


def _publish_partly(phase: Phase, report: EvalReport, failures: Mapping[str, Exception]) -> None:
    """Publish the scores that there are. Only the final model's are; those of epochs are rows."""
    failed = {name: describe(error) for name, error in failures.items()}
    partial = msgspec.structs.replace(report, failed=failed)
    phase.paths.eval.mkdir(parents=True, exist_ok=True)
    fs.publish(phase.paths.partial_scores, records.encode(partial))


@contextlib.contextmanager
def _merged(phase: Phase, model: ModelToScore) -> Iterator[ModelToScore]:
    """A model that can be loaded: with its adapter merged, in a directory that exists meanwhile.

    What an interrupted merge left, in this attempt or an earlier one, is deleted first.
    """
    if not model.is_adapter:
        yield model
        return
    from worker.training import lora

    whole = phase.paths.merged_epoch(epoch_of(model.directory) or 0)
    directories.prune_earlier_attempts(phase.job, phase.paths)
    shutil.rmtree(whole, ignore_errors=True)
    sys.stderr.write(f"eval: merges the adapter of {model.name} into the model\n")
    try:
        lora.save_merged(phase.spec, model.directory, phase.paths.final_model, whole)
        yield model._replace(directory=whole, is_adapter=False)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def model_scores(
    models: Sequence[ModelToScore], reports: Sequence[EvalReport]
) -> tuple[ModelScores, ...]:
    """The scores of each model in order, with the metrics for which it is the best.

    A stop rule may give each model a metric of its own: `avg_at_12`, `avg_at_20`.
    """
    mains = [{name.split("/")[1]: name for name in report.main} for report in reports]

    def value(model: int, benchmark: str) -> float:
        sign = _sign(reports[-1].protocol[benchmark])
        return sign * (reports[model].metrics[mains[model][benchmark]] or 0.0)

    best = {
        benchmark: max(range(len(reports)), key=lambda model: value(model, benchmark))
        for benchmark in mains[-1]
    }
    return tuple(
        ModelScores(
            name=model.name,
            epoch=model.epoch,
            metrics=report.metrics,
            best_of=tuple(name for benchmark, name in mains[i].items() if best[benchmark] == i),
        )
        for i, (model, report) in enumerate(zip(models, reports, strict=True))
    )


def _sign(protocol: ScoringProtocol) -> int:
    return -1 if protocol.higher_is_better is False else 1


def report_of(results: Sequence[BenchmarkResult], timing: GenerationTiming) -> EvalReport:
    """The results of one model, with the names used in `eval.json`."""
    return EvalReport(
        metrics={
            f"bench/{result.benchmark}/{name}": value
            for result in results
            for name, value in result.metrics.items()
        },
        main=tuple(f"bench/{each.benchmark}/{next(iter(each.metrics))}" for each in results),
        intervals={result.benchmark: result.intervals for result in results},
        protocol={result.benchmark: result.protocol for result in results},
        timing=timing,
    )


class _Scoring:
    """Scores one of the phase's models on every benchmark."""

    def __init__(
        self, phase: Phase, settings: EvalSpec, model: ModelToScore, place: tuple[int, int]
    ) -> None:
        self.phase = phase
        self.settings = settings
        self.model = model
        self.place = place

    def run(
        self,
        own: Sequence[QuestionSet],
        tasks: Sequence[TaskBenchmark],
        math: MathGrader,
        failures: dict[str, Exception],
    ) -> EvalReport:
        """The scores of the benchmarks that do not fail; the errors of others go to `failures`."""
        from worker.evaluation.runner import ModelEvaluation
        from worker.evaluation.task_evaluation import TaskEvaluation

        choice, tokenizer = choose_engine(self.phase.spec, self.settings, self.model)
        session = ModelEvaluation(
            self.phase.job.job,
            self.settings,
            choice,
            tokenizer,
            directory=self.model.samples(self.phase.paths.eval),
            earlier=self._earlier(),
            help=self._help(),
            report=self._progress,
        )
        try:
            results = session.run(own, math)
            results += TaskEvaluation(session).run(tasks) if tasks else []
        finally:
            session.close()
            failures |= session.failures
        return report_of(results, session.timing)

    def _earlier(self) -> list[Path]:
        """The directories in which earlier attempts left samples of this model, newest first."""
        numbers = range(self.phase.paths.number - 1, 0, -1)
        return [self.model.samples(self.phase.job.attempt(n).eval) for n in numbers]

    def _help(self) -> HelpPlaces:
        phase = self.phase
        return find_places(phase.root, phase.job, phase.paths.number, share=self.settings.share)

    def _progress(self, done: int, total: int) -> None:
        index, count = self.place
        self.phase.progress(index * total + done, count * total, "samples")


if __name__ == "__mp_main__":  # a process that vLLM has spawned imports this module first
    children.die_with_spawner()
if __name__ == "__main__":
    run_program(main)
