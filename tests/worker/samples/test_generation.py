"""Chunks and their files, resumed runs, and samples that are copies of each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan, read_generations
from tests.support.engines import SAMPLING, make_engine, prompts
from worker.inference.engine import Engine
from worker.inference.requests import SampleChunk, Sampling
from worker.samples.generation import NotIndependentError, generate, plan_chunks, refuse_copies
from worker.samples.sample_store import SampleStore
from worker.samples.schedule import BenchmarkWork


def test_chunks_are_fixed_by_what_is_asked(tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    chunks = plan_chunks("job", "bench", asked, 5, SAMPLING, rows=4)
    shuffled = dict(reversed(asked.items()))
    assert plan_chunks("job", "bench", shuffled, 5, SAMPLING, rows=4) == chunks
    order = [(r.question, r.sample) for chunk in chunks for r in chunk.requests]
    assert order == [(name, sample) for name in "bca" for sample in range(5)]
    assert [len(chunk.requests) for chunk in chunks] == [4, 4, 4, 3]


def test_every_sample_has_a_seed_of_its_own(tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    seeds = [
        request.seed
        for job in ("job a", "job b")
        for bench in ("one", "two")
        for chunk in plan_chunks(job, bench, asked, 8, SAMPLING, rows=4)
        for request in chunk.requests
    ]
    assert len(set(seeds)) == len(seeds) == 2 * 2 * 3 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


class Recorded:
    """An engine that answers at once and remembers what it was asked; it may die before a chunk."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[int] = []
        self._dies_at = dies_at

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        for chunk in chunks:
            if chunk.index == self._dies_at:
                raise KeyboardInterrupt
            self.asked.append(chunk.index)
            yield (
                chunk,
                [
                    Generation(
                        question=r.question,
                        sample=r.sample,
                        seed=r.seed,
                        text=f"text {r.seed}",
                        tokens=1,
                        finish="stop",
                    )
                    for r in chunk.requests
                ],
            )

    def close(self) -> None: ...


def make_work(directory: Path, asked: dict[str, Any], *, key: str = "k", earlier: Any = ()) -> Any:
    chunks = plan_chunks("job", "bench", asked, 4, SAMPLING, rows=3)
    plan = SamplingPlan(key=key, benchmark="bench", k=4, chunks=len(chunks))
    store = SampleStore(directory, plan, earlier)
    store.open([AskedQuestion(id=name, answer="1") for name in asked])
    return [BenchmarkWork(store, chunks)]


def nothing(done: int, total: int) -> None: ...


def test_a_killed_run_resumes_from_its_finished_chunks(tmp_path: Path, tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    whole = generate(lambda _: Recorded(), make_work(tmp_path / "whole", asked), nothing).samples
    with pytest.raises(KeyboardInterrupt):
        generate(lambda _: Recorded(dies_at=2), make_work(tmp_path / "one", asked), nothing)
    second = Recorded()
    progress: list[tuple[int, int]] = []
    work = make_work(tmp_path / "two", asked, earlier=[tmp_path / "one"])
    result = generate(lambda _: second, work, lambda done, total: progress.append((done, total)))
    assert second.asked == [2, 3]
    assert progress == [(6, 12), (9, 12), (12, 12)]
    assert result.samples == whole
    for name in ("generations-00000.jsonl", "generations-00003.jsonl", "questions.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_needs_no_engine(tmp_path: Path, tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    first = generate(lambda _: Recorded(), make_work(tmp_path / "one", asked), nothing).samples

    def no_engine(samples: int) -> Engine:
        raise AssertionError("nothing is left to draw")

    again = generate(no_engine, make_work(tmp_path / "one", asked), nothing)
    assert (again.samples, again.tokens, again.seconds) == (first, 0, 0.0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1])),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"sample":0', b'"sample":1')),
        lambda path: path.unlink(),
    ],
    ids=["torn", "empty", "short", "another sample", "gone"],
)
def test_a_damaged_chunk_is_generated_again(tmp_path: Path, tokenizer: Any, damage: Any) -> None:
    asked = prompts(tokenizer)
    first = generate(lambda _: Recorded(), make_work(tmp_path / "one", asked), nothing).samples
    damage(tmp_path / "one" / "generations-00001.jsonl")
    again = Recorded()
    work = make_work(tmp_path / "one", asked)
    assert generate(lambda _: again, work, nothing).samples == first
    assert again.asked == [1]


def test_samples_of_other_settings_are_not_reused(tmp_path: Path, tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    generate(lambda _: Recorded(), make_work(tmp_path / "one", asked), nothing)
    again = Recorded()
    work = make_work(tmp_path / "two", asked, key="other", earlier=[tmp_path / "one"])
    generate(lambda _: again, work, nothing)
    assert again.asked == [0, 1, 2, 3]
    # In the same directory too: what the other settings left is removed.
    again = Recorded()
    generate(lambda _: again, make_work(tmp_path / "one", asked, key="other"), nothing)
    assert again.asked == [0, 1, 2, 3]


def test_generations_can_be_read_back(tmp_path: Path, tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    drawn = generate(lambda _: Recorded(), make_work(tmp_path / "one", asked), nothing)
    plan, rows, samples = read_generations(tmp_path / "one")
    assert (plan.k, [row.id for row in rows], samples) == (4, list(asked), drawn.samples[0])


def copies(logprob: float | None, tokens: int = 100, count: int = 3) -> dict[str, list[Generation]]:
    return {
        name: [
            Generation(
                question=name,
                sample=i,
                seed=i,
                text="the same",
                tokens=tokens,
                finish="stop",
                logprob=logprob,
            )
            for i in range(count)
        ]
        for name in ("x", "y")
    }


def test_equal_samples_beyond_chance_are_refused() -> None:
    with pytest.raises(NotIndependentError, match="all 3 samples of `x`"):
        refuse_copies(copies(-50.0), SAMPLING)
    with pytest.raises(NotIndependentError):
        refuse_copies(copies(None), SAMPLING)


def test_equal_samples_of_a_confident_model_are_accepted() -> None:
    refuse_copies(copies(-0.01), SAMPLING)
    refuse_copies(copies(None, tokens=5), SAMPLING)
    refuse_copies(copies(-50.0, count=1), SAMPLING)
    refuse_copies(copies(-50.0), Sampling(max_gen_toks=1, temperature=0.0))
    half = copies(None)
    half["y"][0] = msgspec.structs.replace(half["y"][0], text="another")
    refuse_copies(half, SAMPLING)


def test_an_engine_that_ignores_seeds_is_caught(tokenizer: Any) -> None:
    engine = make_engine("llama", tokenizer)
    sampling = Sampling(max_gen_toks=40, temperature=1.0)
    (chunk,) = plan_chunks("job", "bench", prompts(tokenizer), 4, sampling, rows=64)
    same = tuple(msgspec.structs.replace(request, seed=5) for request in chunk.requests)
    ((_, rows),) = engine.run(iter([msgspec.structs.replace(chunk, requests=same)]))
    samples: dict[str, list[Generation]] = {}
    for row in rows:
        samples.setdefault(row.question, []).append(row)
    with pytest.raises(NotIndependentError):
        refuse_copies(samples, sampling)
