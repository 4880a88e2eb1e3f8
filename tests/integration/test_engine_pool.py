"""Several engines that share one list of chunks, as real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch

from jobspec.errors import ModelError
from jobspec.records.evaluation import Generation
from jobspec.spec.schema import ModelSpec
from tests.support.models import stories_model
from tests.support.paths import REPOSITORY, needs_data
from worker.evaluation.lm_eval_model import load_tokenizer
from worker.inference.engine import EngineChoice, choose
from worker.inference.hf_engine import HfEngine
from worker.inference.pool import EngineDiedError, EngineFailed, EnginePool, _error
from worker.inference.pool_main import failure
from worker.inference.requests import SampleChunk, Sampling
from worker.samples.generation import plan_chunks

pytestmark = needs_data
SAMPLING = Sampling(max_gen_toks=32, temperature=0.8, top_p=0.95)


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> EngineChoice:
    model = stories_model(tmp_path_factory.mktemp("model") / "stories")
    return choose("hf", ModelSpec(name=str(model)), model, gpus=0)


@pytest.fixture(scope="module")
def chunks(choice: EngineChoice) -> list[SampleChunk]:
    tokenizer = load_tokenizer(choice.weights.directory, template=None, trust_remote_code=False)
    prompts = {f"q{i}": tuple(tokenizer(f"Once {i}")["input_ids"]) for i in range(6)}
    return plan_chunks("job", "bench", prompts, 8, SAMPLING, rows=8)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def drawn(engine: Any, chunks: Iterator[SampleChunk]) -> dict[int, list[Generation]]:
    return {chunk.index: rows for chunk, rows in engine.run(chunks)}


def test_two_engines_generate_what_one_does(
    choice: EngineChoice, chunks: list[SampleChunk]
) -> None:
    # With another number of threads sums round differently, and now and then so falls a draw.
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    try:
        one = drawn(choice.load(), iter(chunks))
    finally:
        torch.set_num_threads(before)
    pool = EnginePool(choice, [{}, {}], samples=48)
    try:
        both = drawn(pool, iter(chunks))
    finally:
        pool.close()
    assert both == one
    assert sorted(both) == list(range(6))


def test_what_was_finished_before_an_engine_died_is_kept(
    choice: EngineChoice, chunks: list[SampleChunk]
) -> None:
    pool = EnginePool(choice, [{}], samples=48)
    finished: list[int] = []
    try:
        with pytest.raises(EngineDiedError, match="ended with code -9"):
            for chunk, _ in pool.run(iter(chunks)):
                finished.append(chunk.index)
                if len(finished) == 2:
                    os.kill(pool._children[0].process.pid, signal.SIGKILL)
        assert 2 <= len(finished) < 6
    finally:
        pool.close()


FORK_AT_START = """\
import os, sys, time
if sys.argv[:1] == ["-m"] and sys.orig_argv[-2].endswith("pool_main") and os.fork() == 0:
    time.sleep(600)  # holds the socket that it inherited, and the pipe of the log
    os._exit(0)
"""


def test_a_dead_engine_is_noticed_behind_a_socket_that_its_child_holds(
    choice: EngineChoice, chunks: list[SampleChunk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FORK_AT_START)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
    pool = EnginePool(choice, [{}], samples=48)
    child = pool._children[0].process.pid
    try:
        forked: list[psutil.Process] = []
        with pytest.raises(EngineDiedError, match="ended with code -9"):
            for _ in pool.run(iter(chunks)):
                forked = forked or psutil.Process(child).children()
                os.kill(child, signal.SIGKILL)
        assert len(forked) == 1 and forked[0].is_running()
    finally:
        pool.close()
    assert not forked[0].is_running() or forked[0].status() == psutil.STATUS_ZOMBIE


def test_an_engine_that_can_not_load_says_why(choice: EngineChoice, tmp_path: Path) -> None:
    weights = msgspec.structs.replace(choice.weights, directory=str(tmp_path))
    broken = msgspec.structs.replace(choice, weights=weights)
    pool = EnginePool(broken, [{}], samples=1)
    try:
        with pytest.raises(EngineDiedError, match=r"\w+Error: "):
            drawn(pool, iter(()))
    finally:
        pool.close()


def test_no_engine_outlives_the_pool(choice: EngineChoice) -> None:
    pool = EnginePool(choice, [{}, {}], samples=1)
    pool.close()
    assert all(child.process.poll() is not None for child in pool._children)


def test_the_parent_raises_the_class_of_a_child_s_failure() -> None:
    refused = failure(ModelError("no", hint="do"))
    assert isinstance(_error(refused), ModelError)
    assert _error(refused).hint == "do"  # type: ignore[attr-defined]
    out_of_memory = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory.\nTried to")
    for error in (out_of_memory, MemoryError("full")):
        assert isinstance(_error(failure(error)), MemoryError)
    assert isinstance(_error(failure(KeyError("x"))), EngineDiedError)
    assert isinstance(_error(EngineFailed(kind="other", message="")), EngineDiedError)


def test_the_in_process_engine_is_transformers(choice: EngineChoice) -> None:
    assert isinstance(choice.load(), HfEngine)
