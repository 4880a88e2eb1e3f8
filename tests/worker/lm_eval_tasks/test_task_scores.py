"""worker.lm_eval_tasks.task_scores: lm-eval's numbers under our names."""

from __future__ import annotations

import pytest

from jobspec.errors import BenchmarkError
from jobspec.records.evaluation import AskedQuestion, SampleScore
from worker.lm_eval_tasks import task_scores

NUMBERS = {
    "name": "gsm8k",
    "alias": "gsm8k",
    "sample_len": 4,
    "exact_match,strict-match": 0.25,
    "exact_match_stderr,strict-match": 0.2,
    "exact_match,flexible-extract": 0.5,
    "exact_match_stderr,flexible-extract": "N/A",
    "f1,strict-match": 0.3,
    "words,strict-match": float("nan"),
}
SAMPLE = SampleScore(sample=0, right=False, answer="7", tokens=5, truncated=True, unclosed=False)


def test_every_number_has_a_name_and_the_first_is_the_main_one() -> None:
    assert task_scores.main_metric(NUMBERS) == "exact_match,strict-match"
    assert task_scores.reported_metrics(NUMBERS) == {
        "exact_match": 0.25,
        "stderr": 0.2,
        "exact_match,flexible-extract": 0.5,
        "exact_match_stderr,flexible-extract": None,
        "f1": 0.3,
        "f1_stderr": None,
    }
    with pytest.raises(BenchmarkError, match="no number for `x`"):
        task_scores.main_metric({"name": "x", "alias": "x", "acc,none": "N/A"})


def test_values_and_answers_by_question() -> None:
    logged = [
        {"doc_id": 0, "filter": "a", "metrics": ["em", "f1"], "em": True, "f1": (1, 2),
         "filtered_resps": ["7"]},
        {"doc_id": 0, "filter": "b", "metrics": ["em"], "em": 0, "filtered_resps": ["[invalid]"]},
    ]  # fmt: skip
    assert task_scores.values_by_question(logged) == {0: {"em,a": 1.0, "em,b": 0.0}}
    assert task_scores.answers_by_question(logged, "em,a") == {0: "7"}
    assert task_scores.answers_by_question(logged, "em,b") == {0: None}


@pytest.mark.parametrize(
    ("value", "higher", "right"), [(1.0, True, True), (0.5, True, False), (0.0, False, True)]
)
def test_a_sample_is_right_if_the_metric_says_so(value: float, higher: bool, right: bool) -> None:
    question = AskedQuestion(id="3", answer="7")
    score = task_scores.score_question(
        question, [SAMPLE], {"em,a": value}, metric="em,a", higher_is_better=higher
    )
    assert score.samples[0].right is right and score.metrics == {"em,a": value}
    assert not task_scores.is_higher_better({"em": False}, "em,a")
    assert task_scores.is_higher_better({}, "em,a") and task_scores.is_higher_better(None, "em,a")
    assert task_scores.shares(score.samples)["truncated_frac"] == 1.0
