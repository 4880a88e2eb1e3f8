"""Generates the samples of every benchmark, in chunks that are saved when they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jobspec.errors import JobspecError
from jobspec.records.evaluation import Generation
from worker.evaluation.sample_store import SampleStore
from worker.inference.engine import Engine
from worker.inference.requests import SampleChunk, SampleRequest, Sampling, sample_seed

_IMPOSSIBLE = -30.0  # natural log: odds of 1 in 10^13 are not chance
_LONG_TOKENS = 64


class NotIndependentError(JobspecError):
    """The samples of a question are copies of each other, so statistics over them mean nothing."""


class GeneratedSamples(NamedTuple):
    """For each benchmark its samples by question; the tokens generated now, and the seconds."""

    samples: list[dict[str, list[Generation]]]
    tokens: int
    seconds: float


class _Watch:
    """Measures time from the request for the first chunk, so that loading the model is left out."""

    def __init__(self, chunks: Sequence[SampleChunk]) -> None:
        self._chunks = chunks
        self._started: float | None = None

    def chunks(self) -> Iterator[SampleChunk]:
        self._started = time.monotonic()
        yield from self._chunks

    @property
    def elapsed_s(self) -> float:
        return 0.0 if self._started is None else time.monotonic() - self._started


def plan_chunks(
    job: str,
    benchmark: str,
    prompts: Mapping[str, tuple[int, ...]],
    k: int,
    sampling: Sampling,
    *,
    rows: int,
) -> list[SampleChunk]:
    """Split questions × samples into chunks, long prompts first to keep padding small.

    The result depends on the job, the questions and the settings only, so that an interrupted run
    asks for the same chunks as an uninterrupted one.
    """
    order = sorted(prompts, key=lambda name: (-len(prompts[name]), name))
    requests = [
        SampleRequest(
            question=name,
            sample=sample,
            seed=sample_seed(job, benchmark, name, sample),
            prompt=prompts[name],
        )
        for name in order
        for sample in range(k)
    ]
    if len({request.seed for request in requests}) < len(requests):
        raise NotIndependentError("two samples have the same seed", place=benchmark)
    cuts = range(0, len(requests), rows)
    return [
        SampleChunk(
            benchmark=benchmark,
            index=index,
            sampling=sampling,
            requests=tuple(requests[start : start + rows]),
        )
        for index, start in enumerate(cuts)
    ]


def generate(
    engine: Callable[[int], Engine],
    work: Sequence[tuple[SampleStore, Sequence[SampleChunk]]],
    report: Callable[[int, int], None],
) -> GeneratedSamples:
    """Generate the samples that no attempt has generated; publish each chunk when it is done.

    Args:
        engine: makes the engine, given how many samples are left; not called if none are.
        work: the store and the chunks of each benchmark.
        report: called with the samples done and the samples in all.

    Returns:
        The samples, ordered by their number within each question.
    """
    stores = {_name(chunk): store for store, chunks in work for chunk in chunks}
    every = [chunk for _, chunks in work for chunk in chunks]
    total = sum(len(chunk.requests) for chunk in every)
    results: dict[tuple[str, int], list[Generation]] = {}
    for chunk in every:
        rows = stores[_name(chunk)].finished(chunk)
        if rows is not None:
            results[_name(chunk)] = rows
    done = sum(map(len, results.values()))
    report(done, total)
    left = [chunk for chunk in every if _name(chunk) not in results]
    watch = _Watch(left)
    tokens = 0
    for chunk, rows in engine(total - done).run(watch.chunks()) if left else ():
        stores[_name(chunk)].save(chunk, rows)
        results[_name(chunk)] = rows
        done += len(rows)
        tokens += sum(row.tokens for row in rows)
        report(done, total)
    samples = [_by_question([results[_name(chunk)] for chunk in chunks]) for _, chunks in work]
    return GeneratedSamples(samples, tokens, watch.elapsed_s)


def refuse_copies(samples: Mapping[str, Sequence[Generation]], sampling: Sampling) -> None:
    """Raise NotIndependentError if the samples of a question are equal, and not by chance.

    A confident model may repeat its text, and then equal samples are correct. If the engine reports
    log-probabilities, the probability that the other samples repeat the first decides. If it does
    not, a benchmark is refused only if for every question all samples are long and equal.
    """
    groups = [rows for rows in samples.values() if len(rows) > 1]
    if sampling.temperature == 0 or not groups:
        return
    equal = [rows for rows in groups if len({row.text for row in rows}) == 1]
    for rows in equal:
        chances = [row.logprob for row in rows[1:] if row.logprob is not None]
        if len(chances) == len(rows) - 1 and sum(chances) < _IMPOSSIBLE:
            raise _copies(rows)
    unknown = [rows for rows in equal if rows[0].logprob is None and rows[0].tokens >= _LONG_TOKENS]
    if len(unknown) == len(groups):
        raise _copies(unknown[0])


def _copies(rows: Sequence[Generation]) -> NotIndependentError:
    return NotIndependentError(
        f"all {len(rows)} samples of `{rows[0].question}` are the same {rows[0].tokens} tokens",
        hint="the engine ignores the seed of each sample; report this with the engine's version",
    )


def _name(chunk: SampleChunk) -> tuple[str, int]:
    return chunk.benchmark, chunk.index


def _by_question(chunks: Iterable[Sequence[Generation]]) -> dict[str, list[Generation]]:
    samples: dict[str, list[Generation]] = {}
    for row in (row for chunk in chunks for row in chunk):
        samples.setdefault(row.question, []).append(row)
    for rows in samples.values():
        rows.sort(key=lambda row: row.sample)
    return samples
