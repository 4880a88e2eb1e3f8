"""An evaluation that idle workers help with: who generates what, and what they have left behind."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan
from jobspec.storage.layout import HelpPaths, JobPaths
from worker.inference.engine import EngineChoice, Weights
from worker.inference.requests import SampleChunk, Sampling
from worker.samples import sharing
from worker.samples.generation import GeneratedSamples, generate, plan_chunks
from worker.samples.helper import claim_chunks, help_generate
from worker.samples.sample_store import SampleStore
from worker.samples.schedule import BenchmarkWork
from worker.samples.sharing import ChunkShare, SharedWork, find_places, silence_of_helpers
from worker.samples.stopping import StopDecision

CHOICE = EngineChoice(name="hf", weights=Weights(directory="model"), context=64)
SAMPLING = Sampling(max_gen_toks=8, temperature=0.6)
ASKED = {"a": (1, 2), "b": (1, 2, 3), "c": (4,)}
HELPER, OTHER = "node1-00000000000000aa", "node2-00000000000000bb"
CHUNKS = 8


class Counted:
    """An engine whose samples follow from their seeds. `before` may act before each chunk."""

    method = "counted"

    def __init__(self, before: Callable[[SampleChunk], object] = lambda chunk: None) -> None:
        self.asked: list[int] = []
        self._before = before

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        for chunk in chunks:
            self.asked.append(chunk.index)
            self._before(chunk)
            yield chunk, [generation(row.question, row.sample, row.seed) for row in chunk.requests]

    def close(self) -> None: ...


def generation(question: str, sample: int, seed: int) -> Generation:
    return Generation(
        question=question, sample=sample, seed=seed, text=f"text {seed}", tokens=1, finish="stop"
    )


class Owner:
    """One attempt of a job that generates eight chunks of one benchmark and shares them."""

    def __init__(self, root: Path, attempt: int = 1, *, stop: bool = False) -> None:
        self.job = JobPaths(root)
        self.dir = self.job.attempt(attempt).eval / "bench"
        self.paths = self.job.help_of(attempt)
        self.dead = set[str]()
        self.chunks = plan_chunks("job", "bench", ASKED, 8, SAMPLING, rows=3, by_round=stop)
        plan = SamplingPlan(key="0123456789abcdef", benchmark="bench", k=8, chunks=CHUNKS)
        earlier = [self.job.attempt(number).eval / "bench" for number in range(1, attempt)]
        helped = [self.job.help_of(number) for number in range(1, attempt)]
        self.store = SampleStore(self.dir, plan, earlier, helped)
        self.store.open([AskedQuestion(id=name, answer="1") for name in ASKED])
        rule = StopDecision(0.4, 3, self.chunks, lambda rows: [True] * 3) if stop else None
        self.work = [BenchmarkWork(self.store, self.chunks, rule)]
        self.progress: list[int] = []

    def run(self, engine: Counted, *, share: bool = True) -> GeneratedSamples:
        shared = ChunkShare(self.paths, CHOICE, lambda helpers: helpers & self.dead)
        return generate(
            lambda samples: engine,
            self.work,
            lambda done, total: self.progress.append(done),
            shared if share else None,
        )

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.dir.glob("generations-*"))}


@pytest.fixture
def alone(tmp_path: Path) -> tuple[GeneratedSamples, dict[str, bytes]]:
    """What a single worker generates."""
    owner = Owner(tmp_path / "alone")
    return owner.run(Counted(), share=False), owner.files()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_LOOK_EVERY_S", 0.0)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def names_of(owner: Owner) -> list[str]:
    return [sharing.chunk_name(owner.store.plan.key, chunk.index) for chunk in owner.chunks]


def help_once(paths: HelpPaths, helper: str, most: int, engine: Counted | None = None) -> Counted:
    """A helper that generates at most `most` chunks."""
    engine = engine or Counted()
    run = engine.run

    def limited(
        chunks: Iterator[SampleChunk],
    ) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        yield from run(chunk for _, chunk in zip(range(most), chunks, strict=False))

    engine.run = limited  # type: ignore[method-assign] - for this helper only
    help_generate(paths.held_by(helper), lambda choice, samples: engine)
    return engine


def test_without_helpers_everything_is_as_if_nothing_were_shared(
    tmp_path: Path, alone: tuple[GeneratedSamples, dict[str, bytes]]
) -> None:
    owner, engine = Owner(tmp_path / "job"), Counted()
    result = owner.run(engine)
    assert engine.asked == list(range(CHUNKS))
    assert (result.samples, result.tokens, owner.files()) == (alone[0].samples, 24, alone[1])
    assert names(owner.job.help) == []


def test_a_helper_takes_the_last_chunks_and_the_result_is_that_of_one_worker(
    tmp_path: Path, alone: tuple[GeneratedSamples, dict[str, bytes]]
) -> None:
    owner, helpers = Owner(tmp_path / "job"), list[Counted]()

    def help_at_second(chunk: SampleChunk) -> None:
        if chunk.index == 1:
            helpers.append(help_once(owner.paths, HELPER, 3))
            assert names(owner.paths.held_by(HELPER)) == []

    engine = Counted(help_at_second)
    result = owner.run(engine)
    assert (engine.asked, helpers[0].asked) == ([0, 1, 2, 3, 4], [7, 6, 5])
    assert (result.samples, owner.files()) == (alone[0].samples, alone[1])
    assert result.tokens == 15  # the speed is measured without the helper's
    assert owner.progress == [0, 3, 15, 18, 21, 24]
    assert names(owner.job.help) == []


def test_a_chunk_is_claimed_by_one_of_many(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "job")
    share = ChunkShare(owner.paths, CHOICE, lambda helpers: set())
    share.offer([sharing.shared_benchmark(owner.store.plan.key, owner.chunks)])
    work = msgspec.msgpack.decode(owner.paths.work.read_bytes(), type=SharedWork)
    assert work.choice == CHOICE
    assert list(work.chunks().values()) == owner.chunks
    claimants = [share.mine()]
    for helper in (HELPER, OTHER):
        owner.paths.held_by(helper).mkdir()
        claimants.append(claim_chunks(owner.paths.held_by(helper), work.chunks()))
    got = [[each.index for each in turn if each] for turn in itertools.zip_longest(*claimants)]
    assert got == [[0, 7, 6], [1, 5, 4], [2, 3]]
    assert len(names(owner.paths.held_by(HELPER))) == 3


def test_few_chunks_are_open_and_more_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MOST_OPEN", 2)
    owner, helpers = Owner(tmp_path / "job"), list[list[int]]()
    engine = Counted(lambda chunk: helpers.append(help_once(owner.paths, HELPER, 9).asked))
    owner.run(engine)
    assert (engine.asked, helpers) == ([0, 1, 2], [[7, 6], [5, 4], [3]])


def die_holding(paths: HelpPaths, chunk: str) -> None:
    """A helper is killed before it has published anything."""


def die_with_torn_result(paths: HelpPaths, chunk: str) -> None:
    whole = b"".join(path.read_bytes() for path in paths.done.iterdir())
    paths.result(chunk).write_bytes(whole[:40])


def die_after_publishing(paths: HelpPaths, chunk: str) -> None:
    work = msgspec.msgpack.decode(paths.work.read_bytes(), type=SharedWork)
    rows = [generation(r.question, r.sample, r.seed) for r in work.chunks()[chunk].requests]
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    paths.result(chunk).write_bytes(lines)


@pytest.mark.parametrize("die", [die_holding, die_with_torn_result, die_after_publishing])
def test_what_a_dead_helper_held_is_generated_by_the_owner(
    tmp_path: Path, alone: tuple[GeneratedSamples, dict[str, bytes]], die: Any
) -> None:
    owner = Owner(tmp_path / "job")
    owner.dead.add(HELPER)

    def help_and_die(chunk: SampleChunk) -> None:
        if chunk.index == 0:
            help_once(owner.paths, HELPER, 1)
            last = names(owner.paths.open)[-1]
            shutil.move(owner.paths.open / last, owner.paths.held_by(HELPER) / last)
            die(owner.paths, last)

    engine = Counted(help_and_die)
    result = owner.run(engine)
    expected = [0, 1, 2, 3, 4, 5] if die is die_after_publishing else [0, 1, 2, 3, 4, 5, 6]
    assert engine.asked == expected
    assert (result.samples, owner.files()) == (alone[0].samples, alone[1])


@pytest.mark.parametrize("ends", ["finishes", "gives it back", "dies", "loses it"])
def test_the_owner_waits_for_what_a_live_helper_holds(
    tmp_path: Path,
    alone: tuple[GeneratedSamples, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    owner = Owner(tmp_path / "job")
    held = owner.paths.held_by(HELPER)

    def claim_last(chunk: SampleChunk) -> None:
        if chunk.index == 0:
            held.mkdir()
            last = names(owner.paths.open)[-1]
            shutil.move(owner.paths.open / last, held / last)

    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) < 3:
            return
        (name,) = names(held)
        if ends == "finishes":
            die_after_publishing(owner.paths, name)
            (held / name).unlink()
        elif ends == "gives it back":
            shutil.move(held / name, owner.paths.open / name)
        elif ends == "dies":
            owner.dead.add(HELPER)
        else:
            shutil.rmtree(owner.paths.dir)

    monkeypatch.setattr(sharing.time, "sleep", wait)
    engine = Counted(claim_last)
    result = owner.run(engine)
    assert len(waited) == 3
    own = list(range(CHUNKS - 1))
    assert engine.asked == (own if ends == "finishes" else [*own, CHUNKS - 1])
    assert (result.samples, owner.files()) == (alone[0].samples, alone[1])
    assert owner.progress[-4:-1] == [21, 21, 21]  # the supervisor sees that it lives


def test_the_owner_looks_for_finished_chunks_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_LOOK_EVERY_S", 1000.0)
    monkeypatch.setattr(sharing.time, "sleep", lambda seconds: None)
    owner = Owner(tmp_path / "job")

    def help_at_second(chunk: SampleChunk) -> None:
        if chunk.index == 1:
            help_once(owner.paths, HELPER, 3)

    owner.run(Counted(help_at_second))
    assert owner.progress == [0, 3, 6, 9, 12, 15, 24]  # the rest only when it has nothing to do


def test_a_chunk_that_a_helper_claims_first_is_left_to_it(
    tmp_path: Path,
    alone: tuple[GeneratedSamples, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A helper gives a chunk back, and another claims it just before the owner does."""
    owner = Owner(tmp_path / "job")
    first, second = owner.paths.held_by(HELPER), owner.paths.held_by(OTHER)
    last = names_of(owner)[-1]
    raced: list[str] = []

    def claim_last(chunk: SampleChunk) -> None:
        if chunk.index == 0:
            first.mkdir()
            second.mkdir()
            shutil.move(owner.paths.open / last, first / last)

    def wait(seconds: float) -> None:
        if (first / last).exists():
            shutil.move(first / last, owner.paths.open / last)
        elif (second / last).exists():
            die_after_publishing(owner.paths, last)
            (second / last).unlink()

    claim = ChunkShare._claim

    def race(share: ChunkShare, name: str) -> bool:
        if name == last and not raced and (owner.paths.open / name).exists():
            raced.append(name)
            shutil.move(owner.paths.open / name, second / name)
        return claim(share, name)

    monkeypatch.setattr(ChunkShare, "_claim", race)
    monkeypatch.setattr(sharing.time, "sleep", wait)
    engine = Counted(claim_last)
    result = owner.run(engine)
    assert raced == [last]
    assert engine.asked == list(range(CHUNKS - 1))
    assert (result.samples, owner.files()) == (alone[0].samples, alone[1])


def test_the_next_attempt_reads_what_helpers_had_finished(
    tmp_path: Path, alone: tuple[GeneratedSamples, dict[str, bytes]]
) -> None:
    first = Owner(tmp_path / "job")

    def help_then_be_killed(chunk: SampleChunk) -> None:
        if chunk.index == 1:
            help_once(first.paths, HELPER, 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(Counted(help_then_be_killed))
    assert list(first.files()) == ["generations-00000.jsonl"]
    second, engine = Owner(tmp_path / "job", attempt=2), Counted()
    result = second.run(engine)
    assert engine.asked == [1, 2, 3, 4]
    assert (result.samples, second.files()) == (alone[0].samples, alone[1])


def test_a_share_that_is_deleted_costs_nothing_but_the_help(
    tmp_path: Path, alone: tuple[GeneratedSamples, dict[str, bytes]]
) -> None:
    owner = Owner(tmp_path / "job")

    def delete(chunk: SampleChunk) -> None:
        if chunk.index == 2:
            shutil.rmtree(owner.job.help)

    engine = Counted(delete)
    result = owner.run(engine)
    assert engine.asked == list(range(CHUNKS))
    assert (result.samples, owner.files()) == (alone[0].samples, alone[1])


def test_a_helper_whose_owner_has_ended_stops(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "job")

    def no_engine(choice: EngineChoice, samples: int) -> Counted:
        raise AssertionError("there is nothing to generate")

    help_generate(owner.paths.held_by(HELPER), no_engine)
    ended = list[int]()

    def help_to_the_end(chunk: SampleChunk) -> None:
        if chunk.index == 0:
            remove = Counted(lambda chunk: shutil.rmtree(owner.paths.dir))
            ended.extend(help_once(owner.paths, HELPER, 2, remove).asked)

    owner.run(Counted(help_to_the_end))
    assert ended == [7]


def test_benchmarks_with_a_stop_rule_are_not_shared(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "job", stop=True)
    open_chunks = list[bool]()
    engine = Counted(lambda chunk: open_chunks.append(owner.paths.work.exists()))
    owner.run(engine)
    assert engine.asked and not any(open_chunks)


def test_a_helper_is_dead_after_a_lease_without_a_heartbeat(tmp_path: Path) -> None:
    queue = Queue.create(tmp_path / "root", heartbeat_s=1.0, lease_s=5.0)
    now = 0.0
    silent = silence_of_helpers(queue.paths, lambda: now)
    queue.heartbeat(HELPER)
    seen: list[set[str]] = []
    for now in map(float, range(8)):  # noqa: B007 - `silent` reads it
        queue.heartbeat(OTHER)
        seen.append(silent({HELPER, OTHER}))
    assert seen == [set()] * 5 + [{HELPER}] * 3


def test_earlier_shares_are_found_and_others_are_not(tmp_path: Path) -> None:
    queue = Queue.create(tmp_path / "root")
    job = queue.paths.job("run-0123456789")
    for name in ("1", "2", "3", "10", "x"):
        (job.help / name).mkdir(parents=True)
    places = find_places(queue.paths, job, 3, share=True)
    assert places.own == job.help_of(3)
    assert places.earlier == (job.help_of(1), job.help_of(2))
    assert find_places(queue.paths, job, 3, share=False).own is None
