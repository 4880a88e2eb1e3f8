"""Several engines on one list of chunks, each in a process of its own.

An engine asks for its next chunk when it has room, so that a slow engine does not hold up the
others. The parent process owns the list and the files; a child process knows one engine and a
socket. A child frees GPU memory by ending, which makes room for the next model. A child leads a
process group, so that all processes that its engine started end with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import msgspec

from jobspec.errors import ModelError
from jobspec.records.evaluation import Generation
from worker.inference import gpu_groups
from worker.inference.engine import Engine, EngineChoice
from worker.inference.requests import SampleChunk

_MOST_IN_FLIGHT = 256
_LOOK_EVERY_S = 1.0  # between checks that the children are alive
_GROUP_ENDS_S = 10.0
# vLLM's processes log their own error; the child learns only that one of them has died.
_ROOT_CAUSE = re.compile(rb"ERROR .*\] ((?:[\w.]+\.)?\w*(?:Error|Exception)\b.*)")
_HIDES_ITS_CAUSE = ("EngineDeadError", "Engine core initialization failed")


class StartEngine(msgspec.Struct, frozen=True, kw_only=True):
    """Parent → child, first: which engine, and how many samples it may hold at a time."""

    choice: EngineChoice
    in_flight: int


class NextChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Parent → child, in answer to ReadyForChunk: a chunk, or None where the list is empty."""

    chunk: SampleChunk | None


class ReadyForChunk(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Child → parent: there is room for another chunk."""


class ChunkDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Child → parent: a chunk's samples."""

    benchmark: str
    index: int
    rows: list[Generation]


class EngineFinished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Child → parent, last: all its chunks are done."""


class EngineFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Child → parent, last: why the engine failed."""

    kind: Literal["refused", "memory", "other"]
    message: str
    hint: str | None = None


Message = ReadyForChunk | ChunkDone | EngineFinished | EngineFailed
_messages = msgspec.msgpack.Decoder(Message)


def start_engine(choice: EngineChoice, tokenizer: Any, *, samples: int, others: int = 0) -> Engine:
    """The engine in this process where it can be, or a pool with one on each group of devices.

    Args:
        tokenizer: the model's, if it is loaded already.
        samples: how many samples there are to generate in all.
        others: engines of other workers that generate some of them.
    """
    groups = gpu_groups.groups(Path(choice.weights.directory))
    if choice.entry.in_process_on_cpu and choice.devices == 0 and len(groups) == 1:
        return choice.load(tokenizer)
    return EnginePool(choice, groups, samples=samples, others=others)


class EngineDiedError(RuntimeError):
    """An engine's process ended without a message, or by an error that the spec did not cause."""


class EnginePool:
    """One engine for each group of devices. Use it for one `run`.

    Args:
        choice: the engine that each child loads.
        groups: the environment of each child: the devices it sees, and settings for them.
        samples: how many samples there are to generate in all.
        others: engines elsewhere that generate some of them.
    """

    method = "an engine in each of several processes"

    def __init__(
        self,
        choice: EngineChoice,
        groups: Sequence[Mapping[str, str]],
        *,
        samples: int,
        others: int = 0,
    ) -> None:
        # One engine holds at most half of an even share; faster engines take the rest.
        engines = len(groups) + others
        share = max(1, min(_MOST_IN_FLIGHT, samples // (2 * engines)))
        start = StartEngine(choice=choice, in_flight=share if engines > 1 else _MOST_IN_FLIGHT)
        threads = max(1, len(os.sched_getaffinity(0)) // len(groups))
        self._children = [
            _Child(start, {"OMP_NUM_THREADS": str(threads), **switches}) for switches in groups
        ]

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        """Send each engine a chunk whenever it asks for one; yield chunks as they finish.

        Raises:
            EngineDiedError, MemoryError, ModelError: an engine failed. Chunks yielded before that
                are valid.
        """
        held: dict[tuple[str, int], SampleChunk] = {}
        busy: dict[Any, _Child] = {child.connection: child for child in self._children}
        while busy:
            for ready in wait(list(busy), _LOOK_EVERY_S) or _ended(busy):
                child = busy[ready]
                message = child.receive()
                if isinstance(message, ChunkDone):
                    yield held.pop((message.benchmark, message.index)), message.rows
                elif isinstance(message, ReadyForChunk):
                    chunk = next(chunks, None)
                    if chunk is not None:
                        held[chunk.benchmark, chunk.index] = chunk
                    child.send(NextChunk(chunk=chunk))
                elif isinstance(message, EngineFinished):
                    del busy[ready]
                else:
                    raise _error(child.explained(message))

    def close(self) -> None:
        """End the child processes, whatever they are doing."""
        for child in self._children:
            child.close()


class _Child:
    """One engine's process, the parent's end of its socket, and what it logs."""

    def __init__(self, start: StartEngine, switches: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parent.parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker.inference.pool_main", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **switches, "PYTHONPATH": path},
                process_group=0,
            )
        self.connection = Connection(ours.detach())
        self._root_cause: str | None = None
        self._log = threading.Thread(target=self._pass_on_log, daemon=True)
        self._log.start()
        self.send(start)

    def send(self, message: msgspec.Struct) -> None:
        try:
            self.connection.send_bytes(msgspec.msgpack.encode(message))
        except OSError as error:
            raise self._died() from error

    def receive(self) -> Message:
        try:
            # A process of vLLM may hold the other end after the child has ended.
            if self.process.poll() is not None and not self.connection.poll():
                raise EOFError
            return _messages.decode(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._died() from error

    def explained(self, failed: EngineFailed) -> EngineFailed:
        """The failure with the error of the engine's own process, where that is the cause."""
        if not any(words in failed.message for words in _HIDES_ITS_CAUSE):
            return failed
        self.close()  # after this its log is complete
        if self._root_cause is None:
            return failed
        kind = "memory" if "OutOfMemoryError" in self._root_cause else "other"
        return EngineFailed(kind=kind, message=self._root_cause)

    def close(self) -> None:
        """Kill the process and all that it started, and wait until their memory is free."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        until = time.monotonic() + _GROUP_ENDS_S
        while _group_exists(self.process.pid) and time.monotonic() < until:
            time.sleep(0.02)
        self._log.join(_GROUP_ENDS_S)
        self.connection.close()

    def _died(self) -> EngineDiedError:
        return EngineDiedError(f"an engine's process ended with code {self.process.wait()}")

    def _pass_on_log(self) -> None:
        """Copy the log to this process's own, and keep the last error in it."""
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
                if found := _ROOT_CAUSE.search(line):
                    self._root_cause = found[1].decode(errors="replace")


def _ended(children: Mapping[Any, _Child]) -> list[Any]:
    """The connections of children that have ended."""
    return [
        connection for connection, child in children.items() if child.process.poll() is not None
    ]


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _error(failed: EngineFailed) -> Exception:
    """The child's failure as an exception of the class that the phase handles."""
    if failed.kind == "refused":
        return ModelError(failed.message, hint=failed.hint)
    if failed.kind == "memory":
        return MemoryError(failed.message)
    return EngineDiedError(failed.message)
