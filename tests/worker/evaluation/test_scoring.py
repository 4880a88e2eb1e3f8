"""Scores from generations: against values worked out by hand, without any model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from jobspec.results import confidence
from tests.support.evaluations import DATA, needs_data
from worker.evaluation import scoring
from worker.evaluation.lm_eval_task import FILTER, TaskSettings, make_task
from worker.evaluation.math_grader import Judge
from worker.inference.requests import Asked, Generation, Plan, Sampling


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(processes=2, limit_s=6.0) as made:
        yield made


def plan(k: int, form: str = "aime", **protocol: Any) -> Plan:
    return Plan(
        key="",
        benchmark="b",
        form=form,
        k=k,
        chunks=0,
        think_end_token="</think>",  # type: ignore[arg-type]
        protocol=protocol,
    )


def drawn(texts: Sequence[str], *, finish: str = "stop", tokens: int = 10) -> list[Generation]:
    return [
        Generation(question="q", sample=i, seed=i, text=text, tokens=tokens, finish=finish)  # type: ignore[arg-type]
        for i, text in enumerate(texts)
    ]


def asked(answer: str = "70", name: str = "q", *, opens: bool = False, **fields: Any) -> Asked:
    return Asked(id=name, answer=answer, opens_think=opens, **fields)


def numbers(form: Any, k: int, scores: Sequence[scoring.QuestionScore]) -> dict[str, float | None]:
    return {name: metric(scores) for name, metric in scoring.metrics(form, k).items()}


def test_a_model_of_known_chances(judge: Judge) -> None:
    """k = 32; questions answered right 32, 16, 8 and 0 times, their wrong answers all alike."""
    k, counts = 32, [32, 16, 8, 0]
    rows = []
    for i, count in enumerate(counts):
        texts = ["\\boxed{70}"] * count + ["\\boxed{71}"] * (k - count)
        rows.append((asked(name=str(i)), drawn(texts)))
    scores = scoring.score(plan(k), rows, judge)
    found = numbers("aime", k, scores)
    means = [1, 0.5, 0.25, 0]
    assert found["avg_at_32"] == pytest.approx(56 / 128)
    spread = math.sqrt(sum((m - 0.4375) ** 2 for m in means) / 3) / 2
    assert found["stderr"] == pytest.approx(spread)
    noise = math.sqrt((0.5 * 0.5 + 0.25 * 0.75) / 31) / 4
    assert found["sampling_stderr"] == pytest.approx(noise)
    for j in (1, 2, 4, 8, 16, 32):
        by_hand = [1 - math.comb(k - c, j) / math.comb(k, j) for c in counts]
        assert found[f"pass_at_{j}"] == pytest.approx(sum(by_hand) / 4)
    assert found["pass_at_32"] == 0.75
    # Won; tied at 16 to 16; lost; lost.
    assert found["maj_at_32"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    found = scoring.intervals(scores, k)
    pq = 0.4375 * 0.5625
    of_samples = confidence.wilson(0.4375, 32 / 31 * pq / noise**2)
    assert found["samples"] == pytest.approx(of_samples)
    t = confidence.t_quantile(3)
    assert found["questions"] == pytest.approx(confidence.wilson(0.4375, 4 / 3 * pq / spread**2, t))


def test_every_metric_is_there() -> None:
    beside = ["stderr", "sampling_stderr", "truncated_frac", "unclosed_think_frac",
              "no_answer_frac", "mean_response_tokens"]  # fmt: skip
    assert list(scoring.metrics("math", 1)) == ["math_verify", *beside]
    assert list(scoring.metrics("math", 4)) == [
        "math_verify", "avg_at_4", *beside, "pass_at_1", "pass_at_2", "pass_at_4", "maj_at_4"
    ]  # fmt: skip
    assert list(scoring.metrics("math", 2))[:2] == ["math_verify", "avg_at_2"]
    assert list(scoring.metrics("math", 2))[-3:] == ["pass_at_1", "pass_at_2", "maj_at_2"]
    assert list(scoring.metrics("aime", 1)) == ["avg_at_1", *beside, "pass_at_1", "maj_at_1"]
    assert list(scoring.metrics("aime", 2)) == [
        "avg_at_2", *beside, "pass_at_1", "pass_at_2", "maj_at_2"
    ]  # fmt: skip


def test_a_model_that_never_closes_its_thoughts_scores_nothing(judge: Judge) -> None:
    rows = [(asked(opens=True), drawn(["It is \\boxed{70}."] * 2))]
    rows += [(asked(name="r"), drawn(["<think>It is \\boxed{70}."] * 2))]
    found = numbers("aime", 2, scoring.score(plan(2), rows, judge))
    assert (found["avg_at_2"], found["unclosed_think_frac"], found["no_answer_frac"]) == (0, 1, 1)


def test_a_model_that_never_opens_one_is_read_whole(judge: Judge) -> None:
    rows = [(asked(), drawn(["It is \\boxed{70}."] * 2))]
    found = numbers("aime", 2, scoring.score(plan(2), rows, judge))
    assert (found["avg_at_2"], found["unclosed_think_frac"], found["no_answer_frac"]) == (1, 0, 0)


def test_a_response_cut_off_is_wrong_whatever_it_says(judge: Judge) -> None:
    texts = ["\\boxed{70}", "<think>\\boxed{70}"]
    for form in ("aime", "math"):
        rows = [(asked(), drawn(texts, finish="length"))]
        found = numbers(form, 2, scoring.score(plan(2, form), rows, judge))
        assert found["avg_at_2"] == 0
        assert (found["truncated_frac"], found["unclosed_think_frac"]) == (1, 0.5)
        assert found["no_answer_frac"] == 1


def test_response_lengths_are_averaged(judge: Judge) -> None:
    rows = [(asked(), drawn(["a"], tokens=10)), (asked(name="r"), drawn(["b"], tokens=30))]
    found = numbers("aime", 1, scoring.score(plan(1), rows, judge))
    assert found["mean_response_tokens"] == 20
    assert found["sampling_stderr"] is None


def test_math_is_judged_against_the_solution_where_there_is_one(judge: Judge) -> None:
    rows = [
        (asked("0", solution="thus $\\boxed{\\frac{3}{4}}$"), drawn(["so \\boxed{0.75}"])),
        (asked("\\frac34", name="r"), drawn(["so \\boxed{0.25}"])),
        (asked("\\frac34", name="s"), drawn(["so \\boxed{0.75}"])),
    ]
    scores = scoring.score(plan(1, "math"), rows, judge)
    assert [s.correct for s in scores] == [1, 0, 1]
    assert [s.samples[0].answer for s in scores] == ["0.75", "0.25", "0.75"]


def test_an_aime_answer_is_an_integer_written_out(judge: Judge) -> None:
    rows = [(asked("70"), drawn(["\\boxed{140/2}", "\\boxed{070}"]))]
    (found,) = scoring.score(plan(2), rows, judge)
    assert [(s.right, s.answer) for s in found.samples] == [(False, None), (True, "70")]


def test_stop_strings_of_the_stock_protocol_cut_the_answer_only(judge: Judge) -> None:
    text = "<think>Problem: hm</think>\\boxed{70}\nProblem: next \\boxed{1}"
    rows = [(asked(), drawn([text]))]
    stock = plan(1, stop_after_thinking=["Problem:"])
    assert scoring.score(stock, rows, judge)[0].correct == 1
    assert scoring.score(plan(1), rows, judge)[0].correct == 0


def test_the_difference_to_the_stock_reader(judge: Judge) -> None:
    """lm-eval's own minerva_math scores an unfinished thought; on finished text both agree."""
    from lm_eval.tasks.minerva_math.utils import process_results

    doc = {"solution": "$\\boxed{7}$", "answer": "7"}
    unfinished, finished = "<think>maybe \\boxed{7}", "surely \\boxed{7}"
    question = asked("7", solution=doc["solution"])
    scores = scoring.score(
        plan(1, "math"), [(question, drawn([unfinished])), (question, drawn([finished]))], judge
    )
    stock = [process_results(doc, [text])["math_verify"] for text in (unfinished, finished)]
    assert stock == [1, 1]
    assert [s.correct for s in scores] == [0, 1]


@needs_data
def test_math500_is_judged_as_the_stock_task_judges_it(judge: Judge) -> None:
    """On the same answer text: right ones, another question's, and prose without an answer."""
    from lm_eval.tasks.minerva_math.utils import process_results

    rows = [json.loads(line) for line in (DATA / "math500.jsonl").read_text().splitlines()]
    texts = [
        f"so $\\boxed{{{rows[i]['answer']}}}$" if i % 3 == 0
        else f"The answer is ${rows[(i + 1) % 500]['answer']}$." if i % 3 == 1
        else f"We have {rows[i]['problem'][:60]}"
        for i in range(500)
    ]  # fmt: skip
    pairs = [
        (asked(row["answer"], row["unique_id"], solution=row["solution"]), drawn([text]))
        for row, text in zip(rows, texts, strict=True)
    ]
    ours = [found.correct for found in scoring.score(plan(1, "math"), pairs, judge)]
    stock = [
        process_results(row, [text])["math_verify"] for row, text in zip(rows, texts, strict=True)
    ]
    assert ours == stock
    assert 150 < sum(ours) < 250


# --- the judge


def test_an_answer_that_takes_too_long_is_wrong_and_the_rest_is_judged() -> None:
    endless = "\\boxed{9^{9^{9^9}}}"  # math_verify's own alarm gives up after 5 s
    with Judge(processes=1, limit_s=1.0) as judge:
        assert judge.judge([("\\boxed{7}", "\\boxed{7}")])[0].right
        (child,) = judge._children
        first = child._process
        found = judge.judge([("\\boxed{7}", endless), ("\\boxed{8}", "\\boxed{8}")])
        assert [verdict.right for verdict in found] == [False, True]
        assert child._process is not first
        assert first is not None
        assert first.poll() is not None


def test_a_child_that_dies_is_replaced() -> None:
    with Judge(processes=1) as judge:
        assert judge.judge([("\\boxed{7}", "\\boxed{7}")])[0].right
        (child,) = judge._children
        assert child._process is not None
        child._process.kill()
        found = judge.judge([("\\boxed{8}", "\\boxed{8}"), ("\\boxed{9}", "\\boxed{9}")])
        assert [verdict.right for verdict in found] == [False, True]


def test_equal_pairs_are_judged_once_and_order_is_kept(judge: Judge) -> None:
    pairs = [("\\boxed{7}", f"\\boxed{{{i % 3 + 6}}}") for i in range(60)]
    assert [verdict.right for verdict in judge.judge(pairs)] == [i % 3 == 1 for i in range(60)]


def test_no_process_outlives_the_judge() -> None:
    with Judge(processes=2) as judge:
        judge.judge([("\\boxed{7}", "\\boxed{7}"), ("\\boxed{7}", "\\boxed{8}")])
        processes = [child._process for child in judge._children]
    assert all(process is not None and process.poll() is not None for process in processes)


# --- the task as lm-eval runs it


def test_the_task_repeats_each_question_and_hands_over_all_samples(judge: Judge) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    from jobspec.benchmarks.registry import Benchmark, Question

    class Answers(LM):
        """Gives repetition n of question i the answer i + n."""

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[Any]:
            seen: dict[int, int] = {}
            out = []
            for request in requests:
                number = int(request.doc["id"])
                nth = seen[number] = seen.get(number, -1) + 1
                text = f"\\boxed{{{number + nth}}}"
                out.append(Generation(
                    question=request.doc["id"], sample=nth, seed=nth, text=text, tokens=1,
                    finish="stop",
                ))  # fmt: skip
            return out

        loglikelihood = loglikelihood_rolling = None  # type: ignore[assignment]

    questions = tuple(
        Question(id=str(i), problem=f"{i} and what?", answer=str(i + 2)) for i in range(3)
    )
    bench = Benchmark(name="aime_x", form="aime", questions=questions, sha256="", source="")
    sampling = Sampling(max_gen_toks=8, temperature=1.0)
    settings = TaskSettings(
        k=4, protocol="published", num_fewshot=None,
        generation_kwargs={"max_gen_toks": sampling.max_gen_toks},
    )  # fmt: skip
    seen: dict[str, list[str]] = {}

    def judge_task(samples: Any) -> Sequence[scoring.QuestionScore]:
        seen.update({name: [row.text for row in rows] for name, rows in samples.items()})
        return scoring.score(
            plan(4), [(asked(q.answer, q.id), samples[q.id]) for q in questions], judge
        )

    task = make_task(bench, settings, scoring.metrics("aime", 4), judge_task)
    found: Any = simple_evaluate(
        model=Answers(), tasks=[task], bootstrap_iters=0, log_samples=False,
        task_manager=TaskManager(include_defaults=False),
    )  # fmt: skip
    assert seen == {str(i): [f"\\boxed{{{i + n}}}" for n in range(4)] for i in range(3)}
    results = found["results"]["aime_x"]
    assert results[f"avg_at_4,{FILTER}"] == 0.25
    assert results[f"pass_at_4,{FILTER}"] == 1.0
    assert results[f"maj_at_4,{FILTER}"] == 0.25
