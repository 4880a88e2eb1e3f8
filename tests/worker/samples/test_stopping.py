"""Sampling that ends by a stop rule: when it ends, what it keeps, and how it is resumed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan, read_generations
from jobspec.results import confidence_sequence
from worker.inference.requests import SampleChunk, Sampling
from worker.samples.generation import GeneratedSamples, generate, plan_chunks
from worker.samples.sample_store import SampleStore
from worker.samples.schedule import BenchmarkWork
from worker.samples.stopping import StopDecision

K, QUESTIONS, HALF_WIDTH = 60, 12, 0.08
SAMPLING = Sampling(max_gen_toks=8, temperature=1.0)
PROMPTS = {f"q{i}": (1,) * (i + 1) for i in range(QUESTIONS)}


class Guessing:
    """Right with a chance that depends on the question; the seed alone decides each sample.

    Args:
        in_flight: how many chunks it works on; they end in any order.
        dies_after: chunks that it finishes before it is killed.
    """

    method = "guesses"

    def __init__(self, in_flight: int = 1, dies_after: int | None = None) -> None:
        self.in_flight = in_flight
        self.dies_after = dies_after
        self.taken = self.finished = 0

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        held: list[SampleChunk] = []
        draw = random.Random(5)
        while True:
            while len(held) < self.in_flight and (chunk := next(chunks, None)) is not None:
                held.append(chunk)
                self.taken += 1
            if not held:
                return
            if self.finished == self.dies_after:
                raise KeyboardInterrupt
            self.finished += 1
            chunk = held.pop(draw.randrange(len(held)))
            yield chunk, [self._sample(request) for request in chunk.requests]

    def close(self) -> None: ...

    def _sample(self, request: Any) -> Generation:
        chance = int(request.question[1:]) / (QUESTIONS - 1)
        right = random.Random(request.seed).random() < chance
        return Generation(
            question=request.question,
            sample=request.sample,
            seed=request.seed,
            text="right" if right else "wrong",
            tokens=5,
            finish="stop",
        )


def judge(rows: Sequence[Generation]) -> list[bool]:
    found = {row.question: row.text == "right" for row in rows}
    assert len(rows) == len({row.sample for row in rows}) * QUESTIONS == QUESTIONS
    return [found[name] for name in PROMPTS]


def work(directory: Path, *, earlier: Sequence[Path] = (), judged: Any = judge) -> BenchmarkWork:
    chunks = plan_chunks("job", "bench", PROMPTS, K, SAMPLING, rows=5, by_round=True)
    plan = SamplingPlan(key="k", benchmark="bench", k=K, chunks=len(chunks))
    store = SampleStore(directory, plan, earlier)
    store.open([AskedQuestion(id=name, answer="1") for name in PROMPTS])
    return BenchmarkWork(store, chunks, StopDecision(HALF_WIDTH, QUESTIONS, chunks, judged))


def nothing(done: int, total: int) -> None: ...


def sample(each: BenchmarkWork, engine: Guessing) -> tuple[int, GeneratedSamples]:
    """The samples a question that the rule led to, and everything."""
    found = generate(lambda _: engine, [each], nothing)
    assert each.stop is not None and each.stop.last is not None
    return each.stop.last + 1, found


def test_chunks_by_round_hold_one_sample_of_each_question() -> None:
    chunks = plan_chunks("job", "bench", PROMPTS, 3, SAMPLING, rows=5, by_round=True)
    assert [chunk.index for chunk in chunks] == list(range(9))
    assert [chunk.round for chunk in chunks] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [len(chunk.requests) for chunk in chunks] == [5, 5, 2] * 3
    assert all({r.sample for r in chunk.requests} == {chunk.round} for chunk in chunks)
    whole = plan_chunks("job", "bench", PROMPTS, 3, SAMPLING, rows=5)
    seeds = [{r.seed for chunk in each for r in chunk.requests} for each in (chunks, whole)]
    assert seeds[0] == seeds[1]
    assert all(chunk.round == 0 for chunk in whole)


def test_a_stopped_run_is_the_beginning_of_the_full_one(tmp_path: Path) -> None:
    k, found = sample(work(tmp_path / "stopped"), Guessing())
    assert 4 < k < K - 4
    whole_chunks = plan_chunks("job", "bench", PROMPTS, K, SAMPLING, rows=7)
    store = SampleStore(tmp_path / "whole", SamplingPlan(key="w", benchmark="bench", k=K, chunks=0))
    store.open([])
    whole = generate(lambda _: Guessing(), [BenchmarkWork(store, whole_chunks)], nothing)
    assert found.samples == [{name: rows[:k] for name, rows in whole.samples[0].items()}]
    assert (found.tokens, found.discarded) == (5 * k * QUESTIONS, [0])
    right = [[row.text == "right" for row in whole.samples[0][name]] for name in PROMPTS]
    for rounds in (k - 1, k):
        low, high = confidence_sequence.bounds([row[:rounds] for row in right], HALF_WIDTH)
        assert (high - low <= 2 * HALF_WIDTH) == (rounds == k)


def test_the_order_in_which_samples_end_does_not_matter(tmp_path: Path) -> None:
    k, found = sample(work(tmp_path / "one"), Guessing())
    each = work(tmp_path / "many")
    engine = Guessing(in_flight=10)
    same, others = sample(each, engine)
    assert (same, others.samples) == (k, found.samples)
    assert 0 < others.discarded[0] < 3 * 10 * 5
    assert engine.finished < engine.taken, "what is not needed is not waited for"
    used = [chunk for chunk in each.chunks if chunk.round < k]
    each.store.finish(msgspec.structs.replace(each.store.plan, k=k, chunks=len(used)))
    files = {path.name for path in (tmp_path / "many").glob("generations-*")}
    assert files == {f"generations-{chunk.index:05}.jsonl" for chunk in used}
    plan, _, samples = read_generations(tmp_path / "many")
    assert (plan.k, samples) == (k, found.samples[0])


@pytest.mark.parametrize("dies_after", [1, 7, 20])
def test_an_interrupted_run_decides_the_same_when_it_goes_on(
    tmp_path: Path, dies_after: int
) -> None:
    k, found = sample(work(tmp_path / "whole"), Guessing())
    with pytest.raises(KeyboardInterrupt):
        sample(work(tmp_path / "one"), Guessing(in_flight=4, dies_after=dies_after))
    again = work(tmp_path / "two", earlier=[tmp_path / "one"])
    same, rest = sample(again, Guessing())
    assert (same, rest.samples) == (k, found.samples)
    assert rest.tokens < found.tokens


def test_progress_counts_what_is_left(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    each = work(tmp_path / "one")
    generate(
        lambda _: Guessing(in_flight=6), [each], lambda done, total: seen.append((done, total))
    )
    assert seen[0] == (0, K * QUESTIONS)
    assert each.stop is not None and each.stop.last is not None
    assert seen[-1] == ((each.stop.last + 1) * QUESTIONS,) * 2
    assert all(done <= total for done, total in seen)


def test_benchmarks_stop_on_their_own(tmp_path: Path) -> None:
    """One benchmark goes on to its end; another one without a rule comes first."""
    chunks = plan_chunks("job", "plain", PROMPTS, 2, SAMPLING, rows=5)
    store = SampleStore(
        tmp_path / "plain", SamplingPlan(key="p", benchmark="plain", k=2, chunks=len(chunks))
    )
    store.open([])
    asked: list[str] = []

    class Noting(Guessing):
        def run(self, chunks: Any) -> Any:
            for chunk, rows in super().run(chunks):
                asked.append(chunk.benchmark)
                yield chunk, rows

    ruled = work(tmp_path / "ruled")
    found = generate(lambda _: Noting(), [ruled, BenchmarkWork(store, chunks)], nothing)
    assert asked[: len(chunks)] == ["plain"] * len(chunks)
    assert {len(rows) for rows in found.samples[1].values()} == {2}
    assert ruled.stop is not None and ruled.stop.last is not None


def test_a_round_that_cannot_be_judged_ends_the_benchmark(tmp_path: Path) -> None:
    each = work(tmp_path / "one", judged=lambda rows: None)
    assert sample(each, Guessing())[0] == 1
