"""What a program of the worker prints on stdout for the command line that ran it."""

from __future__ import annotations

from typing import Literal

from jobspec.errors import JobspecError
from jobspec.records.base import UNSET, Record, UnsetType
from jobspec.records.overview import DataOverview
from jobspec.records.reports import Overlap, PrepareReport


class ErrorDetails(Record, frozen=True, kw_only=True):
    """What is wrong, what to do about it, and where."""

    message: str
    hint: str | None = None
    file: str | None = None
    place: str | None = None

    @classmethod
    def of(cls, error: JobspecError) -> ErrorDetails:
        return cls(message=error.message, hint=error.hint, file=error.file, place=error.place)

    def to_error(self) -> JobspecError:
        return JobspecError(self.message, hint=self.hint, file=self.file, place=self.place)


class ErrorAnswer(Record, frozen=True, kw_only=True):
    """The answer of a program that exits with `exit_codes.REFUSED`."""

    error: ErrorDetails


class PreparedAgain(Record, frozen=True, kw_only=True):
    """Rows that were tokenized and labelled again, with the SHA-256 of each split's file."""

    report: PrepareReport
    sha256: dict[str, str]


class RegradedBenchmark(Record, frozen=True, kw_only=True):
    """Samples that were read and graded again.

    Attributes:
        differing: `question/sample` of those that are judged differently.
        left_out: why none was graded; empty if they were.
    """

    samples: int = 0
    differing: tuple[str, ...] = ()
    left_out: str = ""


class Regraded(Record, frozen=True, kw_only=True):
    """The samples of each benchmark of an attempt, graded again."""

    benchmarks: dict[str, RegradedBenchmark]


class Contamination(Record, frozen=True, kw_only=True):
    """By benchmark of a spec, its questions in the data; null where they are not available."""

    overlap: dict[str, Overlap | None]


class Preview(Record, frozen=True, kw_only=True):
    """One row as it is trained on.

    Attributes:
        labels: `input_ids`, with -100 for tokens that the loss ignores.
        dropped: why the row is not trained on; then there are no ids.
        format: how the data is stored, and the format of its rows.
        unrendered: fields of this row whose text is not rendered; the data is refused for them.
        overview: of all rows, unless a row was asked for.
    """

    schema: int = 1
    row: int
    format: str = ""
    unrendered: tuple[str, ...] = ()
    text: str
    input_ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    supervised_text: str = ""
    dropped: str | None = None
    overview: DataOverview | UnsetType = UNSET


class VllmAnswer(Record, frozen=True, kw_only=True):
    """Whether vLLM is installed and can run.

    Attributes:
        problem: why the installed vLLM can't run; None if it can.
        command: what installs it, where it is missing or can't run.
    """

    installed: bool
    problem: str | None = None
    command: str | None = None


class PackageAnswer(Record, frozen=True, kw_only=True):
    """Whether an optional package is installed for the workers."""

    installed: bool


class MachineFact(Record, frozen=True, kw_only=True):
    """One thing that a machine has or lacks.

    Attributes:
        subject: what it is about, in one or two words.
        command: what mends a gap; None where there is nothing to do.
    """

    subject: str
    severity: Literal["ok", "warn", "bad"]
    message: str
    command: str | None = None


class MachineAnswer(Record, frozen=True, kw_only=True):
    """What the worker's Python can do on this machine."""

    facts: tuple[MachineFact, ...]


class Fetched(Record, frozen=True, kw_only=True):
    """One line of `worker.fetch`: what a spec needed and where it is, or why it is not there."""

    file: str | UnsetType = UNSET
    fetched: str | UnsetType = UNSET
    error: ErrorDetails | UnsetType = UNSET


class ReadExample(Record, frozen=True, kw_only=True):
    """A made-up response to a question of a new benchmark, and how its answer is read.

    `meant`: whether it should count as right.
    """

    question: str
    expected: str
    response: str
    meant: bool
    answer: str | None
    right: bool
    rule: str | None
    read: str | None


class ReadExamples(Record, frozen=True, kw_only=True):
    """How answers to the questions of a benchmark file are read."""

    examples: tuple[ReadExample, ...]


class Rescored(Record, frozen=True, kw_only=True):
    """The benchmarks scored again, and each metric that changed: its value before and after."""

    benchmarks: tuple[str, ...]
    changed: dict[str, tuple[float | None, float | None]]


class TaskFacts(Record, frozen=True, kw_only=True):
    """One of lm-eval's tasks.

    Attributes:
        questions: how many it has, before `limit`.
        max_gen_toks: tokens of the longest answer; None where it generates none.
        runs_code: whether it runs generated code.
    """

    task: str
    questions: int
    max_gen_toks: int | None = None
    runs_code: bool = False


class TasksAnswer(Record, frozen=True, kw_only=True):
    """lm-eval's tasks that a spec names, by the spec's name for them.

    Attributes:
        without_data: names whose data is not on this machine, so that only their packages were
            checked.
    """

    tasks: dict[str, tuple[TaskFacts, ...]]
    without_data: tuple[str, ...] = ()
