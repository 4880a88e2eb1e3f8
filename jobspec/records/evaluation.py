"""What an evaluation leaves in `eval/<benchmark>/`, read without torch: samples, scores, plan.

`plan.json` says what was asked and how, `questions.jsonl` each question with its prompt,
`generations-<chunk>.jsonl` the raw samples, `scores.jsonl` the verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from jobspec.errors import BenchmarkError
from jobspec.records.base import Record
from jobspec.storage.layout import AttemptPaths, EvaluationPaths

R = TypeVar("R", bound=Record)


class Generation(Record, frozen=True, kw_only=True):
    """One sample drawn. `finish` is `length` where it ended without an end-of-sequence token.

    `logprob` is the log-probability of the drawn tokens under the sampling distribution, where the
    engine knows it.
    """

    question: str
    sample: int
    seed: int
    text: str
    tokens: int
    finish: Literal["stop", "length"]
    logprob: float | None = None


class AskedQuestion(Record, frozen=True, kw_only=True):
    """One row of `questions.jsonl`: all that scoring needs to know of a question.

    `opens_think`: the prompt's own tail leaves a think block open.
    """

    id: str
    answer: str
    solution: str | None = None
    prompt: str = ""
    prompt_tokens: int = 0
    opens_think: bool = False


class SamplingPlan(Record, frozen=True, kw_only=True):
    """`plan.json`. Generations belong together if `key` is the same."""

    key: str
    benchmark: str
    k: int
    chunks: int
    think_end_token: str | None = None
    protocol: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class SampleScore(Record, frozen=True, kw_only=True):
    """One sample's verdict. `answer` is null where none could be read."""

    sample: int
    right: bool
    answer: str | None
    tokens: int
    truncated: bool
    unclosed: bool


class QuestionScore(Record, frozen=True, kw_only=True):
    """One row of `scores.jsonl`: a question and its k verdicts."""

    id: str
    answer: str
    samples: tuple[SampleScore, ...]

    @property
    def correct(self) -> int:
        return sum(sample.right for sample in self.samples)


class Sample(Record, frozen=True, kw_only=True):
    """One sample with everything known of it: a row of `samples.jsonl` and of `jobspec samples`."""

    question: str
    sample: int
    prompt: str
    response: str
    finish: str
    expected: str
    answer: str | None
    right: bool
    truncated: bool
    unclosed: bool
    tokens: int


def benchmark_dirs(evaluations: Path) -> dict[str, Path]:
    """The evaluated benchmarks below an attempt's `eval/`, those of epochs as `<epoch>/<name>`."""
    found = sorted(evaluations.glob(f"*/{EvaluationPaths.PLAN}"))
    epochs = sorted(evaluations.glob(f"{AttemptPaths.CHECKPOINTS}/*/*/{EvaluationPaths.PLAN}"))
    named = {path.parent.name: path.parent for path in found}
    named |= {f"{path.parts[-3]}/{path.parts[-2]}": path.parent for path in epochs}
    return named


def read_plan(directory: Path) -> SamplingPlan:
    """What was asked and how. Raises BenchmarkError where it can't be read."""
    try:
        return msgspec.json.decode(EvaluationPaths(directory).plan.read_bytes(), type=SamplingPlan)
    except (OSError, msgspec.MsgspecError) as error:
        raise _incomplete(directory, error) from error


def read_generations(
    directory: Path,
) -> tuple[SamplingPlan, list[AskedQuestion], dict[str, list[Generation]]]:
    """The plan, the questions, and the samples in order by question.

    Raises:
        BenchmarkError: something is missing, damaged, doubled, or not there yet.
    """
    try:
        plan = msgspec.json.decode(EvaluationPaths(directory).plan.read_bytes(), type=SamplingPlan)
        questions = read_rows(EvaluationPaths(directory).questions, AskedQuestion)
        chunks = [
            read_rows(EvaluationPaths(directory).generations(i), Generation)
            for i in range(plan.chunks)
        ]
    except (OSError, msgspec.MsgspecError) as error:
        raise _incomplete(directory, error) from error
    drawn: dict[str, list[Generation]] = {question.id: [] for question in questions}
    for row in (row for chunk in chunks for row in chunk):
        drawn.setdefault(row.question, []).append(row)
    for name, rows in drawn.items():
        rows.sort(key=lambda row: row.sample)
        if [row.sample for row in rows] != list(range(plan.k)):
            raise BenchmarkError(
                f"question `{name}` has {len(rows)} samples instead of {plan.k}", file=directory
            )
    return plan, questions, drawn


def read_scores(directory: Path) -> list[QuestionScore]:
    """The verdicts of an evaluated benchmark. Raises BenchmarkError where there are none."""
    try:
        return read_rows(EvaluationPaths(directory).scores, QuestionScore)
    except (OSError, msgspec.MsgspecError) as error:
        raise _incomplete(directory, error) from error


def outcomes(scores: Iterable[QuestionScore]) -> dict[str, list[bool]]:
    """Right or wrong for each sample by question: what `jobspec.results.comparison` pairs."""
    return {score.id: [sample.right for sample in score.samples] for score in scores}


def samples(directory: Path) -> Iterator[Sample]:
    """Every sample of an evaluated benchmark with its verdict, by question."""
    _, questions, drawn = read_generations(directory)
    scores = {score.id: score for score in read_scores(directory)}
    for question in questions:
        yield from join_scores(question, drawn[question.id], scores[question.id])


def join_scores(
    question: AskedQuestion, rows: Sequence[Generation], score: QuestionScore
) -> Iterator[Sample]:
    """A question's samples with their verdicts."""
    for row, verdict in zip(rows, score.samples, strict=True):
        yield Sample(
            question=question.id,
            sample=row.sample,
            prompt=question.prompt,
            response=row.text,
            finish=row.finish,
            expected=question.answer,
            answer=verdict.answer,
            right=verdict.right,
            truncated=verdict.truncated,
            unclosed=verdict.unclosed,
            tokens=row.tokens,
        )


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """A JSONL file's rows."""
    return [msgspec.json.decode(line, type=kind) for line in path.read_bytes().splitlines()]


def to_lines(rows: Iterable[Record]) -> bytes:
    """Rows as JSONL."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _incomplete(directory: Path, error: Exception) -> BenchmarkError:
    return BenchmarkError(
        f"the evaluation is not complete: {error}",
        file=directory,
        hint="let the job finish; `jobspec status` says where it stands",
    )
