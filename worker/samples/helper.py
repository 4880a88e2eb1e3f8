"""An idle worker's side of a shared evaluation. `python -m worker.samples.helper DIRECTORY`.

The directory is the helper's own in `taken/` of a share (`worker.samples.sharing`). The helper
claims chunks until `open/` is empty. It may be killed at any time: the supervisor gives back what
is in its directory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from jobspec.records import evaluation
from jobspec.storage import fs
from jobspec.storage.layout import HelpPaths
from worker.imports.quiet import import_transformers, set_library_variables
from worker.inference import gpu_groups
from worker.inference.engine import Engine, EngineChoice
from worker.inference.pool import start_engine
from worker.inference.requests import SampleChunk
from worker.program import run_program
from worker.samples.sharing import SharedWork


def main() -> None:
    set_library_variables()
    import_transformers()
    help_generate(Path(sys.argv[1]), _start)


def help_generate(held: Path, start: Callable[[EngineChoice, int], Engine]) -> None:
    """Generate chunks of a share until none is left, and publish each when it is done.

    Args:
        held: the helper's directory.
        start: makes the engine, given the owner's and how many samples are open.
    """
    paths = HelpPaths.of_helper(held)
    try:
        work = msgspec.msgpack.decode(fs.read(paths.work), type=SharedWork)
        fs.make_dir(held)
    except FileNotFoundError:
        return  # the owner has ended
    chunks = work.chunks()
    names = {(chunk.benchmark, chunk.index): name for name, chunk in chunks.items()}
    is_open = set(fs.list_names(paths.open))
    samples = sum(len(chunk.requests) for name, chunk in chunks.items() if name in is_open)
    if not samples:
        return
    engine = start(work.choice, samples)
    try:
        for chunk, rows in engine.run(claim_chunks(held, chunks)):
            name = names[chunk.benchmark, chunk.index]
            fs.publish(paths.result(name), evaluation.to_lines(rows))
            fs.remove(held / name)
    except FileNotFoundError:
        if fs.exists(paths.done):
            raise
    finally:
        engine.close()


def claim_chunks(held: Path, chunks: dict[str, SampleChunk]) -> Iterator[SampleChunk]:
    """Claim open chunks, the last one first, as long as there are any."""
    paths = HelpPaths.of_helper(held)
    while True:
        is_open = set(fs.list_names(paths.open))
        left = [name for name in chunks if name in is_open]
        if not left:
            return
        for name in reversed(left):
            if fs.move_once(paths.open / name, held / name):
                yield chunks[name]
                break
        else:
            return  # others took all of them, or the share was removed


def _start(choice: EngineChoice, samples: int) -> Engine:
    devices = len(gpu_groups.visible())
    return start_engine(
        msgspec.structs.replace(choice, devices=devices), None, samples=samples, others=1
    )


if __name__ == "__main__":
    run_program(main)
