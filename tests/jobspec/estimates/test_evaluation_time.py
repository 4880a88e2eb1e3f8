"""jobspec.estimates.evaluation_time: what is known before an evaluation, and what is not."""

from __future__ import annotations

from pathlib import Path

from jobspec.estimates import evaluation_time
from jobspec.spec.schema import BenchmarkOverrides, EvalSpec
from tests.support.specs import job_spec


def test_an_lm_eval_task_does_not_have_the_specs_budget(tmp_path: Path) -> None:
    settings = EvalSpec(
        benchmarks=("gsm8k", "hellaswag", "aime24"),
        overrides={"gsm8k": BenchmarkOverrides(max_gen_toks=512)},
    )
    found = evaluation_time.estimate(job_spec("a/b", eval=settings), tmp_path)
    assert found is not None
    assert [part.max_gen_toks for part in found.benchmarks] == [512, None, 32768]
    assert [part.tokens_at_most for part in found.benchmarks] == [None, None, 30 * 32 * 32768]
    assert found.tokens_at_most is None
