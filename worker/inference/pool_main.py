"""One engine in a process of its own, started by worker.inference.pool."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection

import msgspec

from jobspec.errors import JobspecError
from worker.imports.quiet import import_transformers
from worker.inference.pool import Done, Failed, Finished, Message, Next, Start, Work
from worker.inference.requests import Chunk


def main() -> int:
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
    """Load the engine, draw chunk after chunk, say so."""
    start = msgspec.msgpack.decode(connection.recv_bytes(), type=Start)
    import_transformers()
    engine = start.choice.load(in_flight=start.in_flight)
    for chunk, rows in engine.run(chunks(connection)):
        send(connection, Done(benchmark=chunk.benchmark, index=chunk.index, rows=rows))
    engine.close()
    send(connection, Finished())


def chunks(connection: Connection) -> Iterator[Chunk]:
    """The parent's list of work, one chunk when the engine has room for one."""
    while True:
        send(connection, Next())
        work = msgspec.msgpack.decode(connection.recv_bytes(), type=Work)
        if work.chunk is None:
            return
        yield work.chunk


def send(connection: Connection, message: Message) -> None:
    connection.send_bytes(msgspec.msgpack.encode(message))


def failure(error: Exception) -> Failed:
    """What the parent is told, so that the phase classes it as if it had happened there."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, JobspecError):
        return Failed(kind="refused", message=text, hint=error.hint)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failed(kind="memory", message=text.splitlines()[0])
    return Failed(kind="other", message=f"{type(error).__name__}: {text.splitlines()[0]}")


if __name__ == "__main__":
    sys.exit(main())
