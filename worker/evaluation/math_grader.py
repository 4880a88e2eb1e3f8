"""Grades mathematical answers with math_verify, in child processes that can be killed.

`math_verify` limits its time with `signal.alarm`, which cannot interrupt a long regular expression
or a huge integer in C code. A child process that does not answer in time is therefore killed and
replaced: that answer counts as wrong, and grading goes on.

Protocol: one JSON line `[gold, response]` in, one JSON line `[right, extracted or null]` out.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

# math_verify allows itself 5 s for each of two parses and a comparison, while Python code runs.
HARD_LIMIT_S = 20.0
_MEMORY_BYTES = 4 * 1024**3
_SHOWN = 200


class Judgement(NamedTuple):
    """Whether a response is right, and the answer that was read from it (None: no answer)."""

    right: bool
    answer: str | None


class _Child:
    """One math_verify process. It is started when first needed and replaced after it was killed."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None

    def grade(self, gold: str, response: str) -> Judgement:
        process = self._process or self._start()
        line = msgspec.json.encode([gold, response, self._limit_s]) + b"\n"
        try:
            answer = self._exchange(process, line)
            return msgspec.json.decode(answer, type=Judgement)
        except (OSError, TimeoutError, msgspec.DecodeError):
            self.close()
            return Judgement(False, None)

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
            [sys.executable, "-m", "worker.evaluation.math_grader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        self._read_line(self._process.stdout.fileno(), time.monotonic() + 60 + self._limit_s)
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> bytes:
        assert process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + self._limit_s
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


class MathGrader:
    """Grades responses on several processes at a time. Use it as a context manager."""

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
        """Grade (gold, response) pairs, in order; equal pairs are graded once.

        An answer that takes longer than the limit or more memory than a child may use is wrong.
        """
        distinct = list(dict.fromkeys(pairs))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count)
        judgements = dict(zip(distinct, self._pool.map(self._one, distinct), strict=True))
        return [judgements[pair] for pair in pairs]

    def _one(self, pair: tuple[str, str]) -> Judgement:
        child = getattr(self._local, "child", None)
        if child is None:
            child = self._local.child = _Child(self._limit_s)
            self._children.append(child)
        return child.grade(*pair)


def _serve(lines: Iterator[bytes]) -> None:
    """The child process: grade one line after the other until the input ends."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    _answer(b"ready")
    for line in lines:
        gold, response, limit_s = msgspec.json.decode(line)
        _die_after(limit_s)
        try:
            target = parse(response)
            right = bool(verify(gold=parse(gold), target=target))
            extracted = str(target[-1])[:_SHOWN] if target else None
        except (Exception, RecursionError, MemoryError):  # any failure to read it is a wrong answer
            right, extracted = False, None
        _answer(msgspec.json.encode([right, extracted]))


def _die_after(limit_s: float) -> None:
    """Let the kernel end this process if one answer takes too much CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + limit_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _answer(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(iter(sys.stdin.buffer))
