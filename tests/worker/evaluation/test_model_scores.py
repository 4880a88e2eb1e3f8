"""The best of a run's models, where a stop rule led to another number of samples for each."""

from __future__ import annotations

from pathlib import Path

from jobspec.records.reports import EvalReport, ScoringProtocol
from worker.evaluation.evaluate import model_scores
from worker.evaluation.models_to_score import ModelToScore


def report(k: int, value: float, loss: float) -> EvalReport:
    names = (f"bench/aime24/avg_at_{k}", "bench/wikitext/word_perplexity")
    return EvalReport(
        metrics=dict(zip(names, (value, loss), strict=True)),
        main=names,
        protocol={
            "aime24": ScoringProtocol(k=k),
            "wikitext": ScoringProtocol(higher_is_better=False),
        },
    )


def test_models_with_other_numbers_of_samples_are_compared() -> None:
    models = [ModelToScore(name, Path(name)) for name in ("epoch-1", "epoch-2", "final")]
    reports = [report(12, 0.4, 9.0), report(20, 0.6, 7.0), report(16, 0.5, 8.0)]
    best = [each.best_of for each in model_scores(models, reports)]
    assert best == [(), ("bench/aime24/avg_at_20", "bench/wikitext/word_perplexity"), ()]
