"""What every engine must keep, whichever it is: one function per promise."""

from __future__ import annotations

from typing import Any

from tests.support.engines import SAMPLING, prompts
from worker.inference.engine import Engine
from worker.inference.requests import SampleChunk
from worker.samples.generation import plan_chunks


def generate(engine: Engine, chunks: list[SampleChunk]) -> dict[int, Any]:
    """The samples of each chunk, by its index."""
    return {chunk.index: rows for chunk, rows in engine.run(iter(chunks))}


def every_sample_once_in_the_order_asked(engine: Engine, tokenizer: Any) -> None:
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 5, SAMPLING, rows=4)
    answered = generate(engine, chunks)
    assert sorted(answered) == [chunk.index for chunk in chunks]
    for chunk in chunks:
        found = [(row.question, row.sample, row.seed) for row in answered[chunk.index]]
        assert found == [(r.question, r.sample, r.seed) for r in chunk.requests]


def the_same_seeds_give_the_same_text(engine: Engine, tokenizer: Any) -> None:
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 5, SAMPLING, rows=4)
    first = generate(engine, chunks)
    assert generate(engine, chunks) == first
    # And so does a run that starts in the middle.
    rest = generate(engine, chunks[2:])
    assert rest == {index: rows for index, rows in first.items() if index >= 2}


def samples_of_a_question_differ(engine: Engine, tokenizer: Any) -> None:
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 6, SAMPLING, rows=64)
    texts: dict[str, set[str]] = {}
    for rows in generate(engine, chunks).values():
        for row in rows:
            texts.setdefault(row.question, set()).add(row.text)
    assert all(len(found) > 1 for found in texts.values())


def nothing_to_do(engine: Engine, tokenizer: Any) -> None:
    assert list(engine.run(iter([]))) == []


CONTRACT = (
    every_sample_once_in_the_order_asked,
    the_same_seeds_give_the_same_text,
    samples_of_a_question_differ,
    nothing_to_do,
)
