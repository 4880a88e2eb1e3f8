"""Draws some samples of a finished evaluation again, and compares them with those it kept.

Whole chunks are drawn again: with Transformers the samples of a chunk are one batch. The engine is
the one of the evaluation, on the devices of this machine.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from jobspec.benchmarks import registry
from jobspec.errors import BenchmarkError, ModelError
from jobspec.records import base as records
from jobspec.records import evaluation, phases
from jobspec.records.audit import DifferentSample, EvalAudit, RedrawnBenchmark
from jobspec.records.base import UNSET
from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan
from jobspec.records.manifest import Manifest
from jobspec.records.reports import ScoringProtocol
from worker.audit.runs import say
from worker.evaluation import scoring
from worker.evaluation.models_to_score import choose_engine, find_models
from worker.grading.math_grader import MathGrader
from worker.host.devices import visible_devices
from worker.host.identity import cpu
from worker.inference.engine import EngineChoice
from worker.inference.pool import start_engine
from worker.inference.requests import ResponseRules, SampleChunk, SampleRequest, Sampling
from worker.phase import Phase

_OF_ENGINE = ("engine", "engine_versions", "dtype", "device")


class _Evaluated(NamedTuple):
    """A benchmark's samples as the evaluation kept them, and the numbers of the chosen chunks."""

    name: str
    plan: SamplingPlan
    questions: dict[str, AskedQuestion]
    chunks: list[list[Generation]]
    chosen: list[int]


def audit(attempt_dir: Path, *, percent: float, seed: int) -> EvalAudit:
    """Draw at least `percent` of the samples of each benchmark of an attempt again.

    Args:
        seed: decides which chunks.

    Raises:
        JobspecError: there are no samples, or the model or the engine is not there.
    """
    started = time.monotonic()
    phase = Phase(phases.EVAL, attempt_dir, reports=False)
    settings = phase.spec.eval
    if settings is None:
        raise BenchmarkError("the job scores nothing", file=phase.job.spec, place="$.eval")
    evaluated = list(_evaluated(phase, percent, random.Random(seed)))
    if not evaluated:
        hint = "the scores of other lm-eval tasks are likelihoods"
        raise BenchmarkError("no samples were generated", file=phase.paths.eval, hint=hint)
    stated = evaluated[0].plan.protocol
    if stated.engine is not UNSET:
        settings = msgspec.structs.replace(settings, backend=stated.engine)
    choice, tokenizer = choose_engine(phase.spec, settings, find_models(phase)[-1])
    work = {each.name: list(_chunks(each, choice, tokenizer)) for each in evaluated}
    choice = msgspec.structs.replace(choice, context=_longest(evaluated, choice))
    drawn = _draw(choice, tokenizer, [chunk for chunks in work.values() for chunk in chunks])
    with MathGrader() as math:
        benchmarks = tuple(_compare(each, drawn, math) for each in evaluated)
    return EvalAudit(
        job=phase.job.job,
        attempt=phase.paths.number,
        identical=not any(each.different for each in benchmarks),
        deterministic=settings.deterministic,
        seed=seed,
        engine=choice.name,
        benchmarks=benchmarks,
        environment=tuple(_environment(phase, stated, choice)),
        seconds=round(time.monotonic() - started, 3),
    )


def _evaluated(phase: Phase, percent: float, rng: random.Random) -> Iterator[_Evaluated]:
    """The benchmarks of the final model that have generated samples."""
    for name, directory in evaluation.benchmark_dirs(phase.paths.eval).items():
        if "/" in name or evaluation.read_plan(directory).protocol.max_gen_toks is UNSET:
            continue
        plan, questions, chunks = evaluation.read_chunks(directory)
        asked = {question.id: question for question in questions}
        chosen = choose_chunks([len(chunk) for chunk in chunks], percent, rng)
        yield _Evaluated(name, plan, asked, chunks, chosen)


def choose_chunks(sizes: Sequence[int], percent: float, rng: random.Random) -> list[int]:
    """Numbers of random chunks that together have at least `percent` of all samples; at least one.

    Args:
        sizes: the samples in each chunk.
    """
    chosen: list[int] = []
    for number in rng.sample(range(len(sizes)), len(sizes)):
        if chosen and 100 * sum(sizes[i] for i in chosen) >= percent * sum(sizes):
            break
        chosen.append(number)
    return sorted(chosen)


def _sampling(protocol: ScoringProtocol) -> Sampling:
    """The sampling settings that the evaluation recorded."""
    values = {name: getattr(protocol, name) for name in Sampling.__struct_fields__}
    return Sampling(**{name: value for name, value in values.items() if value is not UNSET})


def _longest(evaluated: Sequence[_Evaluated], choice: EngineChoice) -> int:
    """The context of the evaluation's engine: its longest prompt with its answer."""
    ends = [
        max(question.prompt_tokens for question in each.questions.values())
        + _sampling(each.plan.protocol).max_gen_toks
        for each in evaluated
    ]
    return min(max(ends), choice.context)


def _chunks(each: _Evaluated, choice: EngineChoice, tokenizer: Any) -> Iterator[SampleChunk]:
    """The chosen chunks as the evaluation asked for them."""
    protocol, sampling = each.plan.protocol, _sampling(each.plan.protocol)
    rules = ResponseRules(
        think_end_token=each.plan.think_end_token,
        opens_think=protocol.opens_think is True,
        stops=protocol.stop_after_thinking or (),
    )
    prompts: dict[str, tuple[int, ...]] = {}
    for number in each.chosen:
        for name in {row.question for row in each.chunks[number]} - prompts.keys():
            question = each.questions[name]
            ids = tokenizer(
                question.prompt, add_special_tokens=not protocol.chat_template, verbose=False
            )["input_ids"]
            prompt = tuple(ids[-(choice.context - sampling.max_gen_toks) :])  # as lm-eval cuts it
            if len(prompt) != question.prompt_tokens:
                raise ModelError(
                    f"its tokenizer makes {len(prompt)} tokens of the prompt of `{name}`, but made "
                    f"{question.prompt_tokens} in the evaluation",
                    file=choice.weights.directory,
                    hint="the tokenizer or the version of Transformers has changed since",
                )
            prompts[name] = prompt
        yield SampleChunk(
            benchmark=each.name,
            index=number,
            sampling=sampling,
            rules=rules,
            requests=tuple(
                SampleRequest(
                    question=row.question,
                    sample=row.sample,
                    seed=row.seed,
                    prompt=prompts[row.question],
                )
                for row in each.chunks[number]
            ),
        )


def _draw(
    choice: EngineChoice, tokenizer: Any, chunks: Sequence[SampleChunk]
) -> dict[tuple[str, int], list[Generation]]:
    """Generate the chunks; the rows of each by benchmark and number."""
    total, done = sum(len(chunk.requests) for chunk in chunks), 0
    say(f"draws {total} samples again with {choice.entry.title}")
    drawn: dict[tuple[str, int], list[Generation]] = {}
    engine = start_engine(choice, tokenizer, samples=total)
    try:
        for chunk, rows in engine.run(iter(chunks)):
            drawn[chunk.benchmark, chunk.index] = rows
            done += len(rows)
            say(f"{done} of {total} samples")
    finally:
        engine.close()
    return drawn


def _compare(
    each: _Evaluated, drawn: dict[tuple[str, int], list[Generation]], math: MathGrader
) -> RedrawnBenchmark:
    pairs = [
        (before, now)
        for number in each.chosen
        for before, now in zip(each.chunks[number], drawn[each.name, number], strict=True)
    ]
    different = [pair for pair in pairs if _text(pair[0]) != _text(pair[1])]
    first = None
    if different:
        before, now = different[0]
        first = DifferentSample(
            question=before.question,
            sample=before.sample,
            character=first_difference(before.text, now.text),
        )
    return RedrawnBenchmark(
        name=each.name,
        samples=sum(map(len, each.chunks)),
        redrawn=len(pairs),
        different=len(different),
        regraded=_regraded(each, different, math),
        first=first,
    )


def _text(row: Generation) -> tuple[str, int, str]:
    return row.text, row.tokens, row.finish


def first_difference(one: str, other: str) -> int:
    """The first character in which two texts differ; the shorter length if one goes on."""
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)


def _regraded(
    each: _Evaluated, pairs: Sequence[tuple[Generation, Generation]], math: MathGrader
) -> int | None:
    """How many of the pairs are graded differently; None for lm-eval's own tasks."""
    benchmark = registry.get(each.plan.benchmark)
    if benchmark is None:
        return None
    if not pairs:
        return 0
    # Both by the grader of today, since that of the evaluation may have been another version.
    before, now = (
        scoring.score(
            benchmark, each.plan, [(each.questions[row.question], [row]) for row in rows], math
        )
        for rows in zip(*pairs, strict=True)
    )
    return sum(a.correct != b.correct for a, b in zip(before, now, strict=True))


def _environment(phase: Phase, stated: ScoringProtocol, choice: EngineChoice) -> Iterator[str]:
    """What was different when the job was evaluated."""
    here = choice.add_facts(ScoringProtocol())
    devices = visible_devices()
    manifest = records.read(phase.paths.manifest, Manifest) or Manifest()
    pairs = {name: (getattr(stated, name), getattr(here, name)) for name in _OF_ENGINE}
    if manifest.cpu or manifest.device.name:
        pairs["hardware"] = manifest.device.name or manifest.cpu, devices.name or cpu()
    for name, (before, now) in pairs.items():
        if before is not UNSET and before != now:
            yield f"{name.replace('_', ' ')}: {_spell(before)} then, {_spell(now)} now"


def _spell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
    return str(value)
