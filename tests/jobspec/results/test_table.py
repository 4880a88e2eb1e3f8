"""jobspec.results.table: partial scores of failed jobs, and numbers that should be low."""

from __future__ import annotations

from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Result
from jobspec.records.base import Reason
from jobspec.records.reports import EarlyStop, EvalReport, ScoringProtocol
from jobspec.results import table
from tests.support.commands import jobspec
from tests.support.queues import ended, enqueue_and_claim, fail
from tests.support.specs import base_spec

LOW = ScoringProtocol(protocol="lm-eval", metric="word_perplexity,none", higher_is_better=False)


def score(queue: Queue, name: str, perplexity: float, accuracy: float) -> None:
    """A succeeded job with a task of which less is better, and one of which more is."""
    claim = enqueue_and_claim(queue, base_spec(name=name))
    claim.end(ended(Reason.SUCCEEDED))
    metrics = {
        "bench/wikitext/word_perplexity": perplexity,
        "bench/wikitext/stderr": None,
        "bench/gsm8k/exact_match_stderr,flexible-extract": 0.01,
        "bench/gsm8k/exact_match": accuracy,
        "bench/mmlu/mmlu_law/acc": 0.4,
    }
    result = Result(
        job=claim.job, attempt=claim.attempt, metrics=metrics, protocol={"wikitext": LOW}
    )
    claim.finish("succeeded", result)


def test_the_lowest_perplexity_is_the_best(queue: Queue) -> None:
    score(queue, "worse", 12.0, 0.5)
    score(queue, "better", 9.0, 0.4)
    found = {row.name: row.scores for row in table.rows(queue.jobs())}
    assert set(found["better"]) == {"wikitext", "gsm8k"}
    assert found["better"]["wikitext"].best and not found["worse"]["wikitext"].best
    assert found["worse"]["gsm8k"].best and found["worse"]["gsm8k"].metric == "exact_match"
    assert not found["better"]["wikitext"].higher_is_better


def test_scores_of_one_stop_rule_are_rivals(queue: Queue) -> None:
    rule = EarlyStop(half_width=0.05, k_at_most=64)
    for name, k, value in (("worse", 12, 0.4), ("better", 20, 0.6)):
        prefix = "bench/aime24/"
        metrics: dict[str, float | None] = {
            f"{prefix}avg_at_{k}": value,
            f"{prefix}sampling_stderr": 0.001,
            f"{prefix}anytime_low": value - 0.05,
            f"{prefix}anytime_high": value + 0.04,
            f"{prefix}samples_saved": 1320.0,
            f"{prefix}tokens_saved": 9e6,
        }
        claim = enqueue_and_claim(queue, base_spec(name=name))
        claim.end(ended(Reason.SUCCEEDED))
        facts = {"aime24": ScoringProtocol(k=k, stop_rule=rule, questions=30)}
        result = Result(job=claim.job, attempt=claim.attempt, metrics=metrics, protocol=facts)
        claim.finish("succeeded", result)
    found = {row.name: row.scores["aime24"] for row in table.rows(queue.jobs())}
    assert found["better"].best and not found["worse"].best
    score = found["worse"]
    assert (score.metric, score.k, score.k_at_most) == ("avg_at_12", 12, 64)
    assert (score.sampling_low, score.sampling_high) == (0.4 - 0.05, 0.4 + 0.04)
    assert (score.samples_saved, score.tokens_saved) == (1320, 9_000_000)
    markdown = jobspec("results", "--markdown", "--root", queue.paths.root).stdout
    assert "| aime24 avg@k | job |" in markdown and "| 0.400 [0.35, 0.44] @12 |" in markdown
    assert "| **0.600 [0.55, 0.64] @20** |" in markdown
    assert "aime24 avg@12 of at most 64: saved 1,320 samples" in markdown
    lines = jobspec("results", "--root", queue.paths.root).stdout
    assert "aime24 avg@12 of at most 64: saved 1,320 samples, about 9,000,000 tokens" in lines


def test_a_job_that_failed_for_one_benchmark_is_listed_with_the_others(queue: Queue) -> None:
    job = fail(queue, base_spec(name="half"), "1 of 2 benchmarks failed")
    fail(queue, base_spec(name="none"), "no GPU")
    partial = job.paths.attempt(1).partial_scores
    partial.parent.mkdir()
    report = EvalReport(metrics={"bench/gsm8k/exact_match": 0.5}, failed={"ifeval": "no package"})
    partial.write_bytes(records.encode(report))
    (row,) = table.rows(queue.jobs())
    assert (row.name, row.failed) == ("half", {"ifeval": "no package"})
    assert row.scores["gsm8k"].value == 0.5
