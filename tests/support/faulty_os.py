"""Filesystem calls that fail, and processes that are killed or stopped at an exact call.

The queue makes system calls only through `os.<call>` in `jobspec.storage.fs` (and `descriptors`,
which is a part of it). Replacing `os` there counts the calls, kills the process at one of them, or
makes one fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jobspec.storage import descriptors, fs

# Calls that reach the filesystem.
CALLS = frozenset(
    {
        *("open", "close", "read", "write", "pread", "fstat", "fchmod", "fsync", "ftruncate"),
        *(
            "rename",
            "unlink",
            "rmdir",
            "mkdir",
            "chmod",
            "symlink",
            "readlink",
            "lstat",
            "stat",
            "listdir",
        ),
    }
)


KILLED = 9
Fault = Callable[[str, Sequence[Any], Callable[[], Any]], Any]


class FaultyOs:
    """`os`, but the `index`-th filesystem call goes through `fault(name, args, call)`."""

    def __init__(self, index: int, fault: Fault, only: frozenset[str] = CALLS) -> None:
        self.index = index
        self.count = 0
        self.fired = False
        self._fault = fault
        self._only = only

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._only:
            return real

        def counted(*args: Any, **kwargs: Any) -> Any:
            here, self.count = self.count, self.count + 1
            if here != self.index:
                return real(*args, **kwargs)
            self.fired = True
            return self._fault(name, args, lambda: real(*args, **kwargs))

        return counted


@contextlib.contextmanager
def faulty(index: int, fault: Fault, only: frozenset[str] = CALLS) -> Iterator[FaultyOs]:
    """Let the `index`-th call made by `jobspec.storage.fs` in this block fail."""
    proxy = FaultyOs(index, fault, only)
    with replaced_os(proxy):
        yield proxy


@contextlib.contextmanager
def replaced_os(stand_in: Any) -> Iterator[None]:
    """Let `jobspec.storage.fs` call another object in place of `os`."""
    before = fs.os
    fs.os = descriptors.os = stand_in
    try:
        yield
    finally:
        fs.os = descriptors.os = before


def fails_with(number: int) -> Fault:
    """The call is not made and fails with this errno."""

    def fault(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
        raise OSError(number, os.strerror(number), name)

    return fault


def loses_reply(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
    """The call is made but reports ENOENT, as a repeated rename does on a network filesystem."""
    call()
    raise FileNotFoundError(2, "lost reply", name)


def dies(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
    """`kill -9` before the call."""
    os._exit(KILLED)


def killed_at(index: int, body: Callable[[], object], *, torn: bool = False) -> bool:
    """Run `body` in a child that is killed at its `index`-th call.

    Args:
        index: which call, from 0.
        body: what the child does.
        torn: if that call is a write, half of it is done first.

    Returns:
        False if the child finished before, because there are no more calls.
    """

    def child_body() -> None:
        with faulty(index, dies_torn if torn else dies):
            body()

    child = fork(child_body)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the child failed by itself at call {index}"
    return code == KILLED


def dies_torn(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
    """`kill -9` before the call, or in the middle of it if it's a write."""
    if name == "write":
        os.write(args[0], bytes(args[1])[: len(args[1]) // 2])
    os._exit(KILLED)


def race(bodies: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run the bodies in one process each, started together. Returns their results (JSON)."""
    start, starter = os.pipe()
    with tempfile.TemporaryDirectory() as scratch:
        answers = [Path(scratch) / str(number) for number in range(len(bodies))]
        children = [
            fork(_racer, start, starter, body, answer)
            for body, answer in zip(bodies, answers, strict=True)
        ]
        os.close(start)
        os.close(starter)  # all children read end of file and start
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0] * len(bodies), codes
        return [json.loads(answer.read_bytes()) for answer in answers]


def _racer(start: int, starter: int, body: Callable[[], Any], answer: Path) -> None:
    os.close(starter)
    os.read(start, 1)
    answer.write_text(json.dumps(body()))


def fork(body: Callable[..., object], *args: Any) -> int:
    """A child that runs `body` and never returns into pytest."""
    with warnings.catch_warnings():
        # About threads of other tests, which the child does not use.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            body(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def stopped_at(
    index: int, body: Callable[[], object], meanwhile: Callable[[], object]
) -> int | None:
    """Run `body` in a child that is stopped (SIGSTOP) at its `index`-th call and continues later.

    Returns:
        The child's exit code: 0 if `body` returned, 1 if it raised; None if it ended before.
    """

    def stops(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return call()

    def child_body() -> None:
        with faulty(index, stops), contextlib.redirect_stderr(None):
            body()

    child = fork(child_body)
    status = os.waitpid(child, os.WUNTRACED)[1]
    if not os.WIFSTOPPED(status):
        assert os.waitstatus_to_exitcode(status) == 0
        return None
    meanwhile()
    os.kill(child, signal.SIGCONT)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
