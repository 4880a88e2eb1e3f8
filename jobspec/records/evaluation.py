"""The files of an evaluation in `eval/<benchmark>/`. Reading them needs no torch.

`plan.json` holds the settings, `questions.jsonl` each question with its prompt,
`generations-<chunk>.jsonl` the samples, and `scores.jsonl` whether each sample is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from jobspec.errors import BenchmarkError
from jobspec.records.base import Record
from jobspec.records.reports import ScoringProtocol
from jobspec.storage.layout import AttemptPaths, EvaluationPaths

R = TypeVar("R", bound=Record)


class Generation(Record, frozen=True, kw_only=True):
    """One sample. `finish` is `length` if it ended without an end-of-sequence token.

    `logprob` is the log-probability of its tokens under the sampling distribution, if the engine
    reports it.

    Attributes:
        thinking: whether the tokens open a think block and close it; None where the tags are not
            tokens, and the text has to tell.
        answer_start: the character at which the answer begins, if `thinking` says that it ended.
    """

    question: str
    sample: int
    seed: int
    text: str
    tokens: int
    finish: Literal["stop", "length"]
    logprob: float | None = None
    thinking: Literal["none", "open", "closed"] | None = None
    answer_start: int = 0


def sample_seed(job: str, benchmark: str, question: str, sample: int) -> int:
    """A sample's seed: 63 bits of SHA-256 over (job, benchmark, question, sample)."""
    name = "\0".join((job, benchmark, question, str(sample)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


class Reading(Record, frozen=True, kw_only=True):
    """How the answer to one question is read, where each question says so itself.

    Attributes:
        reader: by name (`worker.grading.readers`).
        choices: of a multiple-choice question, in the order in which they are asked.
        pattern: the regular expression that finds the answer.
        setup: Python code that is run before a generated program.
        tests: Python code that is run after it.
        cases: inputs and outputs of a generated program (`jobspec.readers.program_cases`).
        instructions: what IFEval's checker looks for, as JSON.
    """

    reader: str
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    setup: str | None = None
    tests: str | None = None
    cases: str | None = None
    instructions: str | None = None


class AskedQuestion(Record, frozen=True, kw_only=True):
    """One row of `questions.jsonl`: what grading needs to know about a question.

    `opens_think`: the end of the prompt opens a think block. `reading`: how its answer is read,
    where that is not the same for all questions of the benchmark.
    """

    id: str
    answer: str
    solution: str | None = None
    prompt: str = ""
    prompt_tokens: int = 0
    opens_think: bool = False
    reading: Reading | None = None


class SamplingPlan(Record, frozen=True, kw_only=True):
    """`plan.json`. Generations belong together if their plans have the same `key`.

    Attributes:
        k: samples a question; with a stop rule, the most there may be until sampling has ended.
        discarded: samples that were asked for before a stop rule ended sampling, and are not used.
        group: the group of lm-eval tasks that this task is part of and that has a score of its own.
    """

    key: str
    benchmark: str
    k: int
    chunks: int
    think_end_token: str | None = None
    protocol: ScoringProtocol = ScoringProtocol()
    discarded: int = 0
    group: str | None = None


class SampleScore(Record, frozen=True, kw_only=True):
    """Whether one sample is right. `answer` is null if none could be read from it.

    Attributes:
        rule: where the answer was found: in a box, after a phrase, …
        read: the part of the response that was read as the answer.
        value: a spelling that the question's answers of equal value have in common, for maj@k;
            None if it is the answer's own.
    """

    sample: int
    right: bool
    answer: str | None
    tokens: int
    truncated: bool
    unclosed: bool
    rule: str | None = None
    read: str | None = None
    value: str | None = None


class Likelihood(Record, frozen=True, kw_only=True):
    """How likely the model finds a text that one of lm-eval's tasks gives it.

    Attributes:
        index: of the text among those of its question.
        greedy: whether the model would write the text itself; None where that is not asked.
    """

    question: str
    index: int
    logprob: float
    greedy: bool | None = None


class QuestionScore(Record, frozen=True, kw_only=True):
    """One row of `scores.jsonl`: a question and the scores of its k samples.

    Attributes:
        metrics: for lm-eval's own tasks, each metric that has a value for a single question, as
            `metric,filter`. Its filters may make one answer of all samples.
    """

    id: str
    answer: str
    samples: tuple[SampleScore, ...]
    metrics: dict[str, float] = msgspec.field(default_factory=dict[str, float])

    @property
    def correct(self) -> int:
        return sum(sample.right for sample in self.samples)


class Sample(Record, frozen=True, kw_only=True):
    """Everything about one sample: a row of `samples.jsonl` and of `jobspec samples`."""

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
    rule: str | None = None
    read: str | None = None


def benchmark_dirs(evaluations: Path) -> dict[str, Path]:
    """The evaluated benchmarks in an attempt's `eval/`; those of epochs are `<epoch>/<name>`."""
    found = sorted(evaluations.glob(f"*/{EvaluationPaths.PLAN}"))
    epochs = sorted(evaluations.glob(f"{AttemptPaths.CHECKPOINTS}/*/*/{EvaluationPaths.PLAN}"))
    named = {path.parent.name: path.parent for path in found}
    named |= {f"{path.parts[-3]}/{path.parts[-2]}": path.parent for path in epochs}
    return named


def read_plan(directory: Path) -> SamplingPlan:
    """The settings of an evaluation. Raises BenchmarkError if they can't be read."""
    try:
        return msgspec.json.decode(EvaluationPaths(directory).plan.read_bytes(), type=SamplingPlan)
    except (OSError, msgspec.MsgspecError) as error:
        raise _incomplete(directory, error) from error


def read_chunks(
    directory: Path,
) -> tuple[SamplingPlan, list[AskedQuestion], list[list[Generation]]]:
    """The plan, the questions, and the samples as they were generated, chunk by chunk.

    Raises:
        BenchmarkError: something is missing or damaged, or not there yet.
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
    return plan, questions, chunks


def read_generations(
    directory: Path,
) -> tuple[SamplingPlan, list[AskedQuestion], dict[str, list[Generation]]]:
    """The plan, the questions, and for each question its samples in order.

    Raises:
        BenchmarkError: something is missing, damaged, doubled, or not there yet.
    """
    plan, questions, chunks = read_chunks(directory)
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
    """The scores of an evaluated benchmark. Raises BenchmarkError if there are none."""
    try:
        return read_rows(EvaluationPaths(directory).scores, QuestionScore)
    except (OSError, msgspec.MsgspecError) as error:
        raise _incomplete(directory, error) from error


def outcomes(scores: Iterable[QuestionScore], metric: str | None = None) -> dict[str, list[float]]:
    """The value of each sample by question, as `jobspec.results.comparison` needs it.

    Args:
        metric: of an lm-eval task: one value for each question that has it. Otherwise a sample
            counts 1 if it is right, and 0 if it is not.
    """
    if metric is not None:
        return {score.id: [score.metrics[metric]] for score in scores if metric in score.metrics}
    return {score.id: [float(sample.right) for sample in score.samples] for score in scores}


def samples(directory: Path) -> Iterator[Sample]:
    """Every sample of an evaluated benchmark with its score, question by question."""
    _, questions, drawn = read_generations(directory)
    scores = {score.id: score for score in read_scores(directory)}
    for question in questions:
        yield from join_scores(question, drawn[question.id], scores[question.id])


def join_scores(
    question: AskedQuestion, rows: Sequence[Generation], score: QuestionScore
) -> Iterator[Sample]:
    """The samples of a question with their scores."""
    for row, judged in zip(rows, score.samples, strict=True):
        yield Sample(
            question=question.id,
            sample=row.sample,
            prompt=question.prompt,
            response=row.text,
            finish=row.finish,
            expected=question.answer,
            answer=judged.answer,
            right=judged.right,
            truncated=judged.truncated,
            unclosed=judged.unclosed,
            tokens=row.tokens,
            rule=judged.rule,
            read=judged.read,
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
