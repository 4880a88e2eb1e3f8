"""Generates the samples of every benchmark, in chunks that are saved when they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jobspec.errors import JobspecError
from jobspec.records.evaluation import Generation, sample_seed
from worker.inference.engine import Engine
from worker.inference.requests import (
    ResponseRules,
    SampleChunk,
    SampleRequest,
    Sampling,
)
from worker.samples.schedule import BenchmarkWork, ChunkSchedule
from worker.samples.sharing import ChunkShare

_IMPOSSIBLE = -30.0  # natural log: odds of 1 in 10^13 are not chance
_LONG_TOKENS = 64


class NotIndependentError(JobspecError):
    """The samples of a question are copies of each other, so statistics over them mean nothing."""


class GeneratedSamples(NamedTuple):
    """For each benchmark its samples by question; the tokens generated now, and the seconds.

    Attributes:
        discarded: for each benchmark, samples begun before its stop rule ended sampling.
    """

    samples: list[dict[str, list[Generation]]]
    tokens: int
    seconds: float
    discarded: list[int]


class _Watch:
    """Measures time from the request for the first chunk, so that loading the model is left out."""

    def __init__(self, chunks: Iterator[SampleChunk]) -> None:
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
    rules: ResponseRules | None = None,
    by_round: bool = False,
) -> list[SampleChunk]:
    """Split questions × samples into chunks, long prompts first to keep padding small.

    The result depends on the job, the questions and the settings only, so that an interrupted run
    asks for the same chunks as an uninterrupted one.

    Args:
        by_round: a chunk has samples of one number only, and chunks are ordered by that number.
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
    rounds = [requests[sample::k] for sample in range(k)] if by_round else [requests]
    if len({request.seed for request in requests}) < len(requests):
        raise NotIndependentError("two samples have the same seed", place=benchmark)
    parts = [
        (number, each[start : start + rows])
        for number, each in enumerate(rounds)
        for start in range(0, len(each), rows)
    ]
    return [
        SampleChunk(
            benchmark=benchmark,
            index=index,
            round=number,
            sampling=sampling,
            rules=rules or ResponseRules(),
            requests=tuple(part),
        )
        for index, (number, part) in enumerate(parts)
    ]


def generate(
    engine: Callable[[int], Engine],
    work: Sequence[BenchmarkWork],
    report: Callable[[int, int], None],
    share: ChunkShare | None = None,
) -> GeneratedSamples:
    """Generate the samples that no attempt has generated; publish each chunk when it is done.

    Args:
        engine: makes the engine, given how many samples are left; not called if none are. Called
            again if helpers gave back chunks after the engine had ended.
        work: what to generate for each benchmark.
        report: called with the samples done and the samples in all.
        share: what lets idle workers generate some of the chunks.

    Returns:
        The samples, ordered by their number within each question.
    """
    schedule = ChunkSchedule(work)
    schedule.read_finished()
    done, total = schedule.counts()
    report(done, total)
    if share is not None and done < total:
        schedule.share(share)
    tokens, seconds = 0, 0.0
    while done < total:
        watch = _Watch(schedule.left())
        for chunk, rows in engine(total - done).run(watch.chunks()):
            schedule.save(chunk, rows)
            schedule.collect()
            tokens += sum(row.tokens for row in rows)
            done, total = schedule.counts()
            report(done, total)
            if done == total and any(each.stop for each in work):
                break  # what an engine has begun beyond that is not needed
        seconds += watch.elapsed_s
        for _ in schedule.wait():
            done, total = schedule.counts()
            report(done, total)
        if share is None:
            break
    if share is not None:
        share.close()
    return GeneratedSamples(
        samples=[schedule.samples(each) for each in work],
        tokens=tokens,
        seconds=seconds,
        discarded=[schedule.discarded(each) for each in work],
    )


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
