"""Scores computed from generations, against values worked out by hand; without a model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from jobspec.benchmarks import registry
from jobspec.benchmarks.benchmark import Benchmark, Question
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.records.evaluation import AskedQuestion, Generation, QuestionScore, SamplingPlan
from jobspec.records.reports import ScoringProtocol
from jobspec.results import benchmark_scores, confidence
from tests.support.paths import DATA, needs_data
from worker.evaluation import scoring
from worker.evaluation.lm_eval_task import FILTER, TaskSettings, make_task
from worker.grading import math_grader
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import Judgement
from worker.inference.requests import Sampling


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(processes=2, limit_s=6.0) as made:
        yield made


def known(name: str) -> Benchmark:
    benchmark = registry.get(name)
    assert benchmark is not None
    return benchmark


AIME, MATH = known("aime24"), known("math500")


def plan(k: int, **protocol: Any) -> SamplingPlan:
    return SamplingPlan(
        key="",
        benchmark="b",
        k=k,
        chunks=0,
        think_end_token="</think>",
        protocol=ScoringProtocol(**protocol),
    )


def drawn(texts: Sequence[str], *, finish: str = "stop", tokens: int = 10) -> list[Generation]:
    return [
        Generation(question="q", sample=i, seed=i, text=text, tokens=tokens, finish=finish)  # type: ignore[arg-type]
        for i, text in enumerate(texts)
    ]


def asked(
    answer: str = "70", name: str = "q", *, opens: bool = False, **fields: Any
) -> AskedQuestion:
    return AskedQuestion(id=name, answer=answer, opens_think=opens, **fields)


def numbers(
    benchmark: Benchmark, k: int, scores: Sequence[QuestionScore]
) -> dict[str, float | None]:
    return {name: metric(scores) for name, metric in benchmark_scores.metrics(benchmark, k).items()}


def test_a_model_of_known_chances(grader: MathGrader) -> None:
    """k = 32; questions answered right 32, 16, 8 and 0 times, their wrong answers all alike."""
    k, counts = 32, [32, 16, 8, 0]
    rows = []
    for i, count in enumerate(counts):
        texts = ["\\boxed{70}"] * count + ["\\boxed{71}"] * (k - count)
        rows.append((asked(name=str(i)), drawn(texts)))
    scores = scoring.score(AIME, plan(k), rows, grader)
    found = numbers(AIME, k, scores)
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
    found = benchmark_scores.intervals(scores, k)
    pq = 0.4375 * 0.5625
    of_samples = confidence.wilson(0.4375, 128 / 127 * pq / noise**2)
    assert found["samples"] == pytest.approx(of_samples)
    t = confidence.t_quantile(3)
    assert found["questions"] == pytest.approx(confidence.wilson(0.4375, 4 / 3 * pq / spread**2, t))


def test_every_metric_is_there() -> None:
    beside = ["stderr", "sampling_stderr", "truncated_frac", "unclosed_think_frac",
              "no_answer_frac", "mean_response_tokens"]  # fmt: skip
    assert list(benchmark_scores.metrics(MATH, 1)) == ["math_verify", *beside]
    assert list(benchmark_scores.metrics(MATH, 4)) == [
        "math_verify", "avg_at_4", *beside, "pass_at_1", "pass_at_2", "pass_at_4", "maj_at_4"
    ]  # fmt: skip
    assert list(benchmark_scores.metrics(MATH, 2))[:2] == ["math_verify", "avg_at_2"]
    assert list(benchmark_scores.metrics(MATH, 2))[-3:] == ["pass_at_1", "pass_at_2", "maj_at_2"]
    assert list(benchmark_scores.metrics(AIME, 1)) == ["avg_at_1", *beside, "pass_at_1", "maj_at_1"]
    assert list(benchmark_scores.metrics(AIME, 2)) == [
        "avg_at_2", *beside, "pass_at_1", "pass_at_2", "maj_at_2"
    ]  # fmt: skip


def test_a_model_that_never_ends_thinking_scores_nothing(grader: MathGrader) -> None:
    rows = [(asked(opens=True), drawn(["It is \\boxed{70}."] * 2))]
    rows += [(asked(name="r"), drawn(["<think>It is \\boxed{70}."] * 2))]
    found = numbers(AIME, 2, scoring.score(AIME, plan(2), rows, grader))
    assert (found["avg_at_2"], found["unclosed_think_frac"], found["no_answer_frac"]) == (0, 1, 1)


def test_without_a_think_block_the_whole_response_is_read(grader: MathGrader) -> None:
    rows = [(asked(), drawn(["It is \\boxed{70}."] * 2))]
    found = numbers(AIME, 2, scoring.score(AIME, plan(2), rows, grader))
    assert (found["avg_at_2"], found["unclosed_think_frac"], found["no_answer_frac"]) == (1, 0, 0)


def test_a_response_cut_off_is_wrong_whatever_it_says(grader: MathGrader) -> None:
    texts = ["\\boxed{70}", "<think>\\boxed{70}"]
    for benchmark in (AIME, MATH):
        rows = [(asked(), drawn(texts, finish="length"))]
        found = numbers(benchmark, 2, scoring.score(benchmark, plan(2), rows, grader))
        assert found["avg_at_2"] == 0
        assert (found["truncated_frac"], found["unclosed_think_frac"]) == (1, 0.5)
        assert found["no_answer_frac"] == 1


def test_response_lengths_are_averaged(grader: MathGrader) -> None:
    rows = [(asked(), drawn(["a"], tokens=10)), (asked(name="r"), drawn(["b"], tokens=30))]
    found = numbers(AIME, 1, scoring.score(AIME, plan(1), rows, grader))
    assert found["mean_response_tokens"] == 20
    assert found["sampling_stderr"] is None


def test_math_is_graded_against_the_solution_if_there_is_one(grader: MathGrader) -> None:
    rows = [
        (asked("0", solution="thus $\\boxed{\\frac{3}{4}}$"), drawn(["so \\boxed{0.75}"])),
        (asked("\\frac34", name="r"), drawn(["so \\boxed{0.25}"])),
        (asked("\\frac34", name="s"), drawn(["so \\boxed{0.75}"])),
    ]
    scores = scoring.score(MATH, plan(1), rows, grader)
    assert [s.correct for s in scores] == [1, 0, 1]
    assert [s.samples[0].answer for s in scores] == ["0.75", "0.25", "0.75"]


def test_an_aime_answer_is_an_integer_written_out(grader: MathGrader) -> None:
    rows = [(asked("70"), drawn(["\\boxed{140/2}", "\\boxed{070}"]))]
    (found,) = scoring.score(AIME, plan(2), rows, grader)
    assert [(s.right, s.answer) for s in found.samples] == [(False, None), (True, "70")]


def test_stop_strings_of_the_stock_protocol_cut_the_answer_only(grader: MathGrader) -> None:
    text = "<think>Problem: hm</think>\\boxed{70}\nProblem: next \\boxed{1}"
    rows = [(asked(), drawn([text]))]
    stock = plan(1, stop_after_thinking=("Problem:",))
    assert scoring.score(AIME, stock, rows, grader)[0].correct == 1
    assert scoring.score(AIME, plan(1), rows, grader)[0].correct == 0


def test_text_after_a_stop_string_is_no_truncation(grader: MathGrader) -> None:
    """A base model that went on writing until the limit, as stored before engines stopped it."""
    text = " 70\n\nQuestion: next one\nAnswer: 3"
    stock = plan(1, stop_after_thinking=("Question:",))
    ((sample,),) = [
        score.samples
        for score in scoring.score(AIME, stock, [(asked(), drawn([text], finish="length"))], grader)
    ]
    assert (sample.right, sample.truncated, sample.answer) == (True, False, "70")
    (other,) = scoring.score(AIME, stock, [(asked(), drawn([" 70"], finish="length"))], grader)
    assert other.samples[0].truncated and not other.samples[0].right


def test_thinking_that_the_tokens_show_is_used(grader: MathGrader) -> None:
    text = "<think>\\boxed{1} </think> no</think>\\boxed{70}"
    (row,) = drawn([text])
    start = text.rindex("</think>") + len("</think>")
    known_end = msgspec.structs.replace(row, thinking="closed", answer_start=start)
    left_open = msgspec.structs.replace(row, thinking="open")
    scores = scoring.score(AIME, plan(1), [(asked(), [known_end]), (asked(), [left_open])], grader)
    samples = [score.samples[0] for score in scores]
    assert [(s.right, s.unclosed, s.answer) for s in samples] == [
        (True, False, "70"), (False, True, None)
    ]  # fmt: skip


def test_answers_of_equal_value_vote_together(grader: MathGrader) -> None:
    """maj@k: three spellings of a half outvote two of another answer; a tie counts in part."""
    texts = ["\\frac12", "0.5", "\\frac{2}{4}", "x+1", "1+x"]
    rows = [(asked("\\frac{1}{2}"), drawn([f"\\boxed{{{text}}}" for text in texts]))]
    (score,) = scoring.score(MATH, plan(5), rows, grader)
    assert [sample.right for sample in score.samples] == [True, True, True, False, False]
    assert len({sample.value or sample.answer for sample in score.samples}) == 2
    assert numbers(MATH, 5, [score])["maj_at_5"] == 1
    # Wrong answers of equal value vote together too.
    texts = ["\\frac12", "x+1", "1+x", "0.7", "\\frac{7}{10}", "7/10"]
    rows = [(asked("\\frac{1}{2}"), drawn([f"\\boxed{{{text}}}" for text in texts]))]
    (score,) = scoring.score(MATH, plan(6), rows, grader)
    values = [sample.value or sample.answer for sample in score.samples]
    assert values[1] == values[2] and values[3] == values[4] == values[5]
    assert numbers(MATH, 6, [score])["maj_at_6"] == 0
    rows = [(asked("\\frac{1}{2}"), drawn(["\\boxed{1/2}", "\\boxed{x+1}"]))]
    assert numbers(MATH, 2, scoring.score(MATH, plan(2), rows, grader))["maj_at_2"] == 0.5


def test_few_answers_are_compared_for_the_majority() -> None:
    """Numbers and right answers need no comparison: only other spellings of wrong answers do."""
    groups: list[list[str]] = []

    class Counting(MathGrader):
        def classes(self, groups_: Sequence[Sequence[str]]) -> list[list[int]]:
            groups.extend(map(list, groups_))
            return super().classes(groups_)

    texts = [f"\\boxed{{{i % 5}.5}}" for i in range(20)] + ["\\boxed{x+1}", "\\boxed{1+x}"] * 4
    with Counting(processes=1) as counting:
        rows = [(asked("7"), drawn(texts)), (asked("8", "r"), drawn(texts[:28]))]
        scoring.score(MATH, plan(28), rows, counting)
    assert groups == [["x+1", "1+x"]] * 2


def test_lm_eval_grades_an_unfinished_thought_differently(grader: MathGrader) -> None:
    """lm-eval's own minerva_math scores an unfinished thought; on finished text both agree."""
    from lm_eval.tasks.minerva_math.utils import process_results

    doc = {"solution": "$\\boxed{7}$", "answer": "7"}
    unfinished, finished = "<think>maybe \\boxed{7}", "surely \\boxed{7}"
    question = asked("7", solution=doc["solution"])
    scores = scoring.score(
        MATH, plan(1), [(question, drawn([unfinished])), (question, drawn([finished]))], grader
    )
    stock = [process_results(doc, [text])["math_verify"] for text in (unfinished, finished)]
    assert stock == [1, 1]
    assert [s.correct for s in scores] == [0, 1]


@needs_data
def test_math500_is_graded_as_the_stock_task_judges_it(grader: MathGrader) -> None:
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
    ours = [found.correct for found in scoring.score(MATH, plan(1), pairs, grader)]
    stock = [
        process_results(row, [text])["math_verify"] for row, text in zip(rows, texts, strict=True)
    ]
    assert ours == stock
    assert 150 < sum(ours) < 250


# --- the grader


def test_an_answer_that_takes_too_long_is_wrong_and_the_rest_is_graded() -> None:
    endless = "\\boxed{9^{9^{9^9}}}"  # math_verify's own alarm gives up after 5 s
    with MathGrader(processes=1, limit_s=1.0) as grader:
        assert grader.grade([("\\boxed{7}", "\\boxed{14/2}")])[0].right
        (child,) = grader._children
        first = child._process
        found = grader.grade([("\\boxed{7}", endless), ("\\boxed{8}", "\\boxed{16/2}")])
        assert [judgement.right for judgement in found] == [False, True]
        assert child._process is not first
        assert first is not None
        assert first.poll() is not None


def test_a_slow_answer_waits_until_all_others_are_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, float]] = []

    def call(child: Any, task: Any, limit_s: float) -> bytes | None:
        number = task.arguments[0][-2]
        calls.append((number, limit_s))
        slow = number == "1" and limit_s < 10
        return None if slow else msgspec.json.encode(Judgement(True, number))

    monkeypatch.setattr(math_grader._Child, "call", call)
    with MathGrader(processes=1, limit_s=20.0) as grader:
        found = grader.grade([(f"\\boxed{{{i}}}", "\\boxed{2x}") for i in range(3)])
    assert [judgement.answer for judgement in found] == ["0", "1", "2"]
    assert calls == [("0", 2.0), ("1", 2.0), ("2", 2.0), ("1", 20.0)]


def test_a_child_that_dies_is_replaced() -> None:
    with MathGrader(processes=1, limit_s=2.0) as grader:
        assert grader.grade([("\\boxed{7}", "\\boxed{14/2}")])[0].right
        (child,) = grader._children
        assert child._process is not None
        child._process.kill()
        found = grader.grade([("\\boxed{8}", "\\boxed{16/2}"), ("\\boxed{9}", "\\boxed{18/2}")])
        assert [judgement.right for judgement in found] == [False, True]


def test_equal_pairs_are_graded_once_and_order_is_kept(grader: MathGrader) -> None:
    pairs = [("\\boxed{7}", f"\\boxed{{{i % 3 + 6}}}") for i in range(60)]
    assert [judgement.right for judgement in grader.grade(pairs)] == [i % 3 == 1 for i in range(60)]
    pairs = [("\\boxed{7}", f"so \\boxed{{{i % 3 + 6}.0}}") for i in range(60)]
    assert [judgement.right for judgement in grader.grade(pairs)] == [i % 3 == 1 for i in range(60)]


def test_no_process_outlives_the_grader() -> None:
    with MathGrader(processes=2) as grader:
        grader.grade([("\\boxed{7}", "\\boxed{14/2}"), ("\\boxed{7}", "\\boxed{8/1}")])
        processes = [child._process for child in grader._children]
    assert all(process is not None and process.poll() is not None for process in processes)


# --- the task as lm-eval runs it


def test_the_task_repeats_each_question_and_hands_over_all_samples(grader: MathGrader) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

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
    bench = QuestionSet(benchmark=known("aime_x"), questions=questions, sha256="", file="")
    sampling = Sampling(max_gen_toks=8, temperature=1.0)
    settings = TaskSettings(
        k=4, protocol="published", num_fewshot=None,
        generation_kwargs={"max_gen_toks": sampling.max_gen_toks},
    )  # fmt: skip
    seen: dict[str, list[str]] = {}

    def judge_task(samples: Any) -> Sequence[QuestionScore]:
        seen.update({name: [row.text for row in rows] for name, rows in samples.items()})
        return scoring.score(
            AIME, plan(4), [(asked(q.answer, q.id), samples[q.id]) for q in questions], grader
        )

    task = make_task(bench, settings, benchmark_scores.metrics(AIME, 4), judge_task)
    found: Any = simple_evaluate(
        model=Answers(), tasks=[task], bootstrap_iters=0, log_samples=False,
        task_manager=TaskManager(include_defaults=False),
    )  # fmt: skip
    assert seen == {str(i): [f"\\boxed{{{i + n}}}" for n in range(4)] for i in range(3)}
    results = found["results"]["aime_x"]
    assert results[f"avg_at_4,{FILTER}"] == 0.25
    assert results[f"pass_at_4,{FILTER}"] == 1.0
    assert results[f"maj_at_4,{FILTER}"] == 0.25
