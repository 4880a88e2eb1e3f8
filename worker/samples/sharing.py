"""The owner's side of a shared evaluation: idle workers generate some of its chunks.

Chunks are claimed from `open/` by a rename, the owner from the front of its list, helpers from the
back. Only the last chunks are in `open/`, so that an evaluation without helpers costs few calls. A
helper publishes what it generated in `done/`, and the owner saves it as its own.

The owner does not depend on its helpers. Once it has nothing left to do, it waits for chunks that
live helpers hold, and generates all others itself. So it does not matter if a name is lost: at
worst a chunk is generated twice, with the same seeds.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from jobspec.queue.heartbeat import SilenceMonitor, Watched, parse_heartbeats
from jobspec.records import base as records
from jobspec.records.evaluation import Generation
from jobspec.records.queue_files import Format
from jobspec.storage import fs
from jobspec.storage.layout import HelpPaths, JobPaths, RootPaths
from worker.inference.engine import EngineChoice
from worker.inference.requests import ResponseRules, SampleChunk, SampleRequest, Sampling
from worker.samples.sample_store import chunk_name, read_chunk

MOST_OPEN = 128
_LOOK_EVERY_S = 2.0
_OWNER = "owner"


class SharedBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """The chunks of one benchmark: for each its name, its index, and its samples' seeds."""

    benchmark: str
    sampling: Sampling
    rules: ResponseRules
    prompts: dict[str, tuple[int, ...]]
    chunks: tuple[tuple[str, int, tuple[tuple[str, int, int], ...]], ...]


class SharedWork(msgspec.Struct, frozen=True, kw_only=True):
    """`work.msgpack`: the engine, and every chunk that may be taken, in the owner's order."""

    choice: EngineChoice
    benchmarks: tuple[SharedBenchmark, ...]

    def chunks(self) -> dict[str, SampleChunk]:
        """The chunks by name, in the owner's order."""
        return {
            name: SampleChunk(
                benchmark=each.benchmark,
                index=index,
                sampling=each.sampling,
                rules=each.rules,
                requests=tuple(
                    SampleRequest(
                        question=question, sample=sample, seed=seed, prompt=each.prompts[question]
                    )
                    for question, sample, seed in rows
                ),
            )
            for each in self.benchmarks
            for name, index, rows in each.chunks
        }


def shared_benchmark(key: str, chunks: Sequence[SampleChunk]) -> SharedBenchmark:
    """The chunks of one benchmark, each prompt once.

    Args:
        key: of the benchmark's plan.
    """
    return SharedBenchmark(
        benchmark=chunks[0].benchmark,
        sampling=chunks[0].sampling,
        rules=chunks[0].rules,
        prompts={row.question: row.prompt for chunk in chunks for row in chunk.requests},
        chunks=tuple(
            (
                chunk_name(key, chunk.index),
                chunk.index,
                tuple((row.question, row.sample, row.seed) for row in chunk.requests),
            )
            for chunk in chunks
        ),
    )


class ChunkShare:
    """What one call of `generate` shares.

    Args:
        paths: of the share; nobody else shares there.
        choice: the engine that all must use.
        silent: which of these helpers are dead.
    """

    def __init__(
        self,
        paths: HelpPaths,
        choice: EngineChoice,
        silent: Callable[[set[str]], set[str]],
    ) -> None:
        self._paths = paths
        self._choice = choice
        self._silent = silent
        self._chunks: dict[str, SampleChunk] = {}
        self._unfinished: dict[str, None] = {}
        self._own: deque[str] = deque()  # those that no helper can take
        self._next_look = 0.0
        self.helped = 0

    def offer(self, benchmarks: Sequence[SharedBenchmark]) -> None:
        """Publish the chunks that are left."""
        work = SharedWork(choice=self._choice, benchmarks=tuple(benchmarks))
        self._chunks = work.chunks()
        self._unfinished = dict.fromkeys(self._chunks)
        self._own = deque(self._chunks)
        if len(self._chunks) < 2:
            return
        for directory in (self._paths.open, self._paths.done, self._paths.held_by(_OWNER)):
            fs.make_dir(directory)
        fs.publish(self._paths.work, msgspec.msgpack.encode(work))
        self._open_more()

    def mine(self) -> Iterator[SampleChunk]:
        """The chunks for the owner to generate now; not those that helpers hold."""
        while self._own:
            yield self._chunks[self._own.popleft()]
        for name in self._chunks:
            if name in self._unfinished and self._claim(name):
                yield self._chunks[name]

    def finish(self, name: str) -> None:
        """The owner has saved a chunk."""
        self._unfinished.pop(name, None)

    def collect(self, *, now: bool = False) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        """What helpers have finished since the last look. It looks every two seconds at most."""
        if not self._unfinished or (time.monotonic() < self._next_look and not now):
            return
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        self._open_more()
        for file in fs.list_names(self._paths.done):
            name = file.partition(".")[0]
            chunk = self._chunks[name] if name in self._unfinished else None
            rows = None if chunk is None else read_chunk(self._paths.result(name), chunk)
            if chunk is not None and rows is not None:
                self.helped += 1
                yield chunk, rows

    def wait(self) -> Iterator[list[tuple[SampleChunk, list[Generation]]]]:
        """Wait for the chunks that live helpers hold; yields what they finish, every two seconds.

        Ends when there is nothing to wait for, or when there are chunks for the owner to generate.
        """
        while self._unfinished:
            held = self._held()  # first: a chunk leaves it only when it is in `done/`, or free
            yield list(self.collect(now=True))
            free = [name for name in self._unfinished if name not in held]
            self._own = deque(self._claim_back(free))
            if self._own or not self._unfinished:
                return
            time.sleep(_LOOK_EVERY_S)

    def close(self) -> None:
        """Remove what was shared; helpers stop."""
        if self.helped:
            sys.stderr.write(f"eval: other workers generated {self.helped} chunks\n")
        if len(self._chunks) > 1:
            fs.discard(self._paths.dir, into=self._paths.dir.parent)

    def _open_more(self) -> None:
        """Put chunks from the end of the owner's list into `open/`, but never its next one."""
        if len(self._own) < 2:
            return
        there = len(fs.list_names(self._paths.open))
        while there < MOST_OPEN and len(self._own) > 1:
            try:
                fs.touch(self._paths.open / self._own[-1])
            except FileNotFoundError:
                return  # the share was deleted
            self._own.pop()
            there += 1

    def _held(self) -> set[str]:
        """The chunks that live helpers have claimed."""
        held = {
            helper: fs.list_names(self._paths.held_by(helper))
            for helper in fs.list_names(self._paths.taken)
            if helper != _OWNER
        }
        dead = self._silent({helper for helper, names in held.items() if names})
        return {name for helper, names in held.items() if helper not in dead for name in names}

    def _claim_back(self, free: Iterable[str]) -> Iterator[str]:
        """The free chunks, without those that a helper takes out of `open/` just now."""
        there = set(fs.list_names(self._paths.open))
        return (name for name in free if name not in there or self._claim(name))

    def _claim(self, name: str) -> bool:
        return fs.move_once(self._paths.open / name, self._paths.held_by(_OWNER) / name)


class HelpPlaces(NamedTuple):
    """Where an attempt shares chunks, and where earlier ones of its job did.

    Attributes:
        own: None if nothing is shared.
        silent: which of some helpers are dead.
    """

    own: HelpPaths | None = None
    earlier: tuple[HelpPaths, ...] = ()
    silent: Callable[[set[str]], set[str]] = lambda helpers: set()


NO_HELP = HelpPlaces()


def find_places(root: RootPaths, job: JobPaths, attempt: int, *, share: bool) -> HelpPlaces:
    """The places of an attempt that shares, or does not."""
    numbers = [int(name) for name in fs.list_names(job.help) if name.isdecimal()]
    earlier = tuple(job.help_of(number) for number in sorted(numbers) if number < attempt)
    if not share:
        return HelpPlaces(earlier=earlier)
    return HelpPlaces(job.help_of(attempt), earlier, silence_of_helpers(root))


def silence_of_helpers(
    root: RootPaths, clock: Callable[[], float] = time.monotonic
) -> Callable[[set[str]], set[str]]:
    """Tells which helpers sent no heartbeat for a lease. It counts between its calls."""
    timing = records.read(root.format, Format) or Format()
    monitor = SilenceMonitor()

    def silent(helpers: set[str]) -> set[str]:
        before = clock()
        heartbeats = parse_heartbeats(fs.list_names(root.workers))
        read = before, clock()
        monitor.observe(map(Watched, helpers), heartbeats, read, 2 * timing.heartbeat_s)
        return helpers & monitor.silent_workers(timing.lease_s)

    return silent
