"""Runs math_verify in child processes that can be killed.

`math_verify` limits its time with signals, which cannot interrupt a long regular expression or a
huge integer in C code. A child process that does not answer in time is therefore killed and
replaced. Every task first gets a short time; those that need more are repeated when all others are
done, and fail after the full time. A slow answer thus delays no other. Limits are CPU time, so that
a score does not depend on what else the machine does.

Protocol: one JSON line `[name of the function, its arguments, seconds]` in, one JSON line with its
result out, or null if it failed.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from jobspec.readers.final_answer import Located, locate
from worker.grading import instructions, math_reader
from worker.grading.math_reader import Judgement
from worker.program import run_program

# math_verify allows itself 5 s for each of two parses and a comparison, while Python code runs.
HARD_LIMIT_S = 20.0
_FIRST_LIMIT_S = 2.0
# After this multiple of the limit a child is killed although it did not use its CPU time.
_WALL_FACTOR = 15
_MEMORY_BYTES = 4 * 1024**3

T = TypeVar("T")


class _Child:
    """One math_verify process. It is started when first needed and replaced after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, task: _Task, limit_s: float) -> bytes | None:
        """The result as JSON; None if the process died or took longer than the limit."""
        process = self._process or self._start()
        line = msgspec.json.encode([task.function, task.arguments, limit_s]) + b"\n"
        try:
            return self._exchange(process, line, limit_s)
        except (OSError, TimeoutError):
            self.close()
            return None

    def close(self) -> None:
        """End the process, even in the middle of an answer."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        package_root = str(Path(__file__).resolve().parent.parent.parent)
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.grading.math_grader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        self._read_line(self._process.stdout.fileno(), time.monotonic() + 60 + HARD_LIMIT_S)
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes, limit_s: float) -> bytes:
        assert process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + _WALL_FACTOR * limit_s
        process.stdin.write(line)
        process.stdin.flush()
        return self._read_line(process.stdout.fileno(), deadline)

    @staticmethod
    def _read_line(descriptor: int, deadline: float) -> bytes:
        """One line; TimeoutError after the deadline, EOFError (an OSError here) if it died."""
        read = b""
        while not read.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise BrokenPipeError
            read += part
        return read


class _Task(msgspec.Struct, frozen=True):
    """A call of a function of `math_reader`."""

    function: str
    arguments: tuple[Any, ...]


class MathGrader:
    """Grades answers on several processes at a time. Use it as a context manager."""

    def __init__(self, processes: int | None = None, limit_s: float = HARD_LIMIT_S) -> None:
        self._count = processes or min(len(os.sched_getaffinity(0)), 8)
        self._limit_s = limit_s
        self._local = threading.local()
        self._children: list[_Child] = []
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> MathGrader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is None:
            return
        # After an error nobody needs the answers that are still being graded.
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()
        self._pool.shutdown()
        for child in self._children:
            child.close()

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Grade (gold, response) pairs, in order. Answers that are equal are graded once.

        An answer that takes longer than the limit or more memory than a child may use is wrong.

        Args:
            pairs: gold is a worked solution, or the expected answer in a box.
        """
        located = [(gold, locate(text)) for gold, text in pairs]
        judged: dict[tuple[str, Located], Judgement | None] = {
            key: math_reader.judge_by_spelling(*key) for key in dict.fromkeys(located)
        }
        left = [key for key, judgement in judged.items() if judgement is None]
        for key, found in zip(left, self._call("judge", left, Judgement), strict=True):
            judged[key] = found or Judgement(False, None)
        return [judged[key] or Judgement(False, None) for key in located]

    def integers(self, formulas: Sequence[str]) -> list[str | None]:
        """For each formula the integer that math_verify reads in it; None if it reads none."""
        distinct = list(dict.fromkeys(formulas))
        arguments = [(formula,) for formula in distinct]
        name = "read_integer_with_math_verify"
        read = dict(zip(distinct, self._call(name, arguments, str), strict=True))
        return [read[formula] for formula in formulas]

    def matches(self, searches: Sequence[tuple[str, str]]) -> list[tuple[str, str] | None]:
        """`last_match` of each (pattern, text), which may take forever without a limit."""
        return self._call("last_match", searches, tuple[str, str])

    def followed(self, checks: Sequence[tuple[str, str]]) -> list[list[bool] | None]:
        """`instructions.followed` of each pair; None where it took too long."""
        return self._call("followed", checks, list[bool])

    def classes(self, groups: Sequence[Sequence[str]]) -> list[list[int]]:
        """For each group the classes of its answers: those of equal value have the same number.

        Where this takes too long, every answer of the group is a class of its own.
        """
        found = self._call("classes", [(list(group),) for group in groups], list[int])
        return [
            list(range(len(group))) if numbers is None else numbers
            for group, numbers in zip(groups, found, strict=True)
        ]

    def _call(
        self, function: str, arguments: Sequence[tuple[Any, ...]], kind: type[T]
    ) -> list[T | None]:
        """The results of a function of `math_reader`, in order; None for what failed."""
        if not arguments:
            return []
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count)
        tasks = [_Task(function, each) for each in arguments]
        first_s = min(_FIRST_LIMIT_S, self._limit_s)
        results = list(self._pool.map(lambda task: self._one(task, first_s), tasks))
        slow = [i for i, result in enumerate(results) if result is None]
        if slow and first_s < self._limit_s:
            again = self._pool.map(lambda i: self._one(tasks[i], self._limit_s), slow)
            for i, result in zip(slow, again, strict=True):
                results[i] = result
        return [None if each is None else _decoded(each, kind) for each in results]

    def _one(self, task: _Task, limit_s: float) -> bytes | None:
        child = getattr(self._local, "child", None)
        if child is None:
            child = self._local.child = _Child()
            self._children.append(child)
        return child.call(task, limit_s)


def _decoded(line: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(line, type=kind | None)
    except msgspec.DecodeError:
        return None


def _serve(lines: Iterator[bytes]) -> None:
    """The child process: do one line after the other until the input ends."""
    _let_math_verify_count_cpu_time()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    _answer(b"ready")
    for line in lines:
        function, arguments, limit_s = msgspec.json.decode(line)
        if function == "followed":
            instructions.load()
        _die_after(limit_s)
        try:
            result = _FUNCTIONS[function](*arguments)
        except (Exception, RecursionError, MemoryError):  # any failure to read it is a wrong answer
            result = None
        _answer(msgspec.json.encode(result))


def _judge(gold: str, located: Sequence[Any]) -> Judgement:
    return math_reader.judge(gold, Located(*located))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "judge": _judge,
    "read_integer_with_math_verify": math_reader.read_integer_with_math_verify,
    "classes": math_reader.classes,
    "last_match": math_reader.last_match,
    "followed": instructions.followed,
}


def _let_math_verify_count_cpu_time() -> None:
    """Replace the alarm of math_verify, which counts time in which other programs run."""
    from math_verify import grader, parser
    from math_verify.errors import TimeoutException

    def give_up(number: int, frame: object) -> None:
        raise TimeoutException

    def limited(timeout_seconds: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                signal.setitimer(signal.ITIMER_PROF, timeout_seconds)
                try:
                    return function(*arguments, **named)
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)

            return call

        return decorate

    signal.signal(signal.SIGPROF, give_up)
    grader.timeout = parser.timeout = limited


def _die_after(limit_s: float) -> None:
    """Let the kernel end this process if one answer takes too much CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + limit_s)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _answer(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    run_program(lambda: _serve(iter(sys.stdin.buffer)))
