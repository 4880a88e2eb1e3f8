"""One engine in a process of its own, started by worker.inference.pool.

It dies with the phase that started it, and the processes that the engine starts die with it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection

import msgspec

from jobspec.errors import JobspecError
from worker.imports.quiet import import_transformers
from worker.inference import children
from worker.inference.pool import (
    ChunkDone,
    EngineFailed,
    EngineFinished,
    Message,
    NextChunk,
    ReadyForChunk,
    StartEngine,
)
from worker.inference.requests import SampleChunk
from worker.process.rank_launcher import die_with_parent
from worker.program import run_program


def main() -> int:
    die_with_parent(signal.SIGKILL, os.getppid())
    children.die_with_this_process()
    connection = Connection(int(sys.argv[1]))
    try:
        serve(connection)
    except (EOFError, BrokenPipeError):
        return 1  # the parent is gone
    except Exception as error:
        traceback.print_exc()
        send(connection, failure(error))
        return 1
    return 0


def serve(connection: Connection) -> None:
    """Load the engine, generate one chunk after the other, and send each to the parent."""
    start = msgspec.msgpack.decode(connection.recv_bytes(), type=StartEngine)
    import_transformers()
    engine = start.choice.load(in_flight=start.in_flight)
    try:
        for chunk, rows in engine.run(chunks(connection)):
            send(connection, ChunkDone(benchmark=chunk.benchmark, index=chunk.index, rows=rows))
    finally:
        engine.close()
    send(connection, EngineFinished())


def chunks(connection: Connection) -> Iterator[SampleChunk]:
    """The parent's chunks; asks for one whenever the engine has room."""
    while True:
        send(connection, ReadyForChunk())
        work = msgspec.msgpack.decode(connection.recv_bytes(), type=NextChunk)
        if work.chunk is None:
            return
        yield work.chunk


def send(connection: Connection, message: Message) -> None:
    connection.send_bytes(msgspec.msgpack.encode(message))


def failure(error: Exception) -> EngineFailed:
    """The message for the parent, so that the phase handles the error as if it were its own."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, JobspecError):
        return EngineFailed(kind="refused", message=text, hint=error.hint)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return EngineFailed(kind="memory", message=text.splitlines()[0])
    return EngineFailed(kind="other", message=f"{type(error).__name__}: {text.splitlines()[0]}")


if __name__ == "__mp_main__":  # a process that vLLM has spawned imports this module first
    children.die_with_spawner()
if __name__ == "__main__":
    run_program(main)
