"""The real vLLM as an engine: what it draws, and that its processes end with it."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import queue
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.engine_contract import CONTRACT, generate
from tests.support.engines import SAMPLING, prompts
from tests.support.vllm import living, vllm_processes
from tests.support.waiting import until
from worker.evaluation.lm_eval_model import load_tokenizer
from worker.inference.engine import Engine, EngineChoice, Weights
from worker.inference.hf_engine import HfEngine
from worker.inference.pool import EngineDiedError, EnginePool
from worker.inference.requests import ResponseRules, SampleChunk, Sampling
from worker.inference.vllm_engine import fail_when_killed
from worker.samples.generation import plan_chunks

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def tokenizer(choice: EngineChoice) -> Any:
    return load_tokenizer(choice.weights.directory, template=None, trust_remote_code=False)


@pytest.fixture(scope="module")
def engine(choice: EngineChoice, tokenizer: Any) -> Iterator[Any]:
    engine = choice.load(tokenizer)
    yield engine
    engine.close()


def planned(tokenizer: Any, k: int, sampling: Sampling, rows: int = 4) -> list[SampleChunk]:
    return plan_chunks("job", "bench", prompts(tokenizer), k, sampling, rows=rows)


def test_a_sample_ends_at_a_stop_string(engine: Engine, tokenizer: Any) -> None:
    """Its text ends before the string, and vLLM forgets the request."""
    sampling = Sampling(max_gen_toks=60, temperature=0.8, top_p=0.9)
    asked = prompts(tokenizer)
    whole = generate(engine, plan_chunks("job", "bench", asked, 2, sampling, rows=64))[0]
    stop = next(row.text[20:22] for row in whole if row.text[20:22].isascii())
    rules = ResponseRules(stops=(stop,))
    chunks = plan_chunks("job", "bench", asked, 2, sampling, rows=64, rules=rules)
    rows = generate(engine, chunks)[0]
    assert [row.text for row in rows] == [row.text.partition(stop)[0] for row in whole]
    ended = [row for row, before in zip(rows, whole, strict=True) if stop in before.text]
    assert ended and all(row.finish == "stop" for row in ended)
    assert any(row.tokens < 60 for row in ended)
    assert generate(engine, chunks)[0] == rows


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_contract(engine: Any, tokenizer: Any, promise: Callable[[Engine, Any], None]) -> None:
    promise(engine, tokenizer)


def test_only_finished_samples_are_handed_over(
    engine: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[Any] = []
    step = engine._llm.llm_engine.step

    def noting() -> Any:
        found = step()
        outputs.extend(found)
        return found

    monkeypatch.setattr(engine._llm.llm_engine, "step", noting)
    generate(engine, planned(tokenizer, 2, SAMPLING))
    assert len(outputs) == 6 and all(output.finished for output in outputs)


def test_greedy_text_is_that_of_hf_without_a_generation_config(
    engine: Any, tokenizer: Any, choice: EngineChoice
) -> None:
    assert not (Path(choice.weights.directory) / "generation_config.json").exists()
    chunks = planned(tokenizer, 1, Sampling(max_gen_toks=40, temperature=0.0), rows=8)
    hf = HfEngine.load(Weights(directory=choice.weights.directory, dtype="float32"), tokenizer)
    wanted = [(row.text, row.tokens, row.finish) for row in generate(hf, chunks)[0]]
    assert [(row.text, row.tokens, row.finish) for row in generate(engine, chunks)[0]] == wanted


def test_a_second_engine_follows_the_first_in_one_process(
    engine: Any, choice: EngineChoice, tokenizer: Any
) -> None:
    """It closes the engine that the tests above share, which saves starting a third one."""
    chunks = planned(tokenizer, 1, SAMPLING)
    texts: list[Any] = []
    for load in (lambda: engine, lambda: choice.load(tokenizer)):
        running = load()
        own = vllm_processes(os.getpid())
        assert own
        texts.append(generate(running, chunks))
        running.close()
        assert living(own) == []
    assert texts[0] == texts[1]


def test_nothing_is_left_when_the_engines_parent_is_killed(
    choice: EngineChoice, tokenizer: Any
) -> None:
    """On CPUs vLLM always spawns; tests/worker/inference/test_children.py also forks."""
    # More than an engine holds at a time, so that chunks are left when the first is finished.
    chunks = planned(tokenizer, 128, SAMPLING, rows=8)
    pool = EnginePool(choice, [{}], samples=384)
    try:
        own: list[Any] = []
        with pytest.raises(EngineDiedError, match="ended with code -9"):
            for _ in pool.run(iter(chunks)):
                if not own:
                    child = pool._children[0].process.pid
                    own = vllm_processes(child)
                    assert own
                    os.kill(child, signal.SIGKILL)
        until(lambda: not living(own), "the end of vLLM's processes", timeout_s=5.0)
    finally:
        pool.close()


def test_what_killed_the_core_is_logged_before_its_error_is_raised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dead = importlib.import_module("vllm.v1.engine.exceptions").EngineDeadError
    core = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    core.start()

    class Core:
        outputs_queue: queue.Queue[Any] = queue.Queue()
        resources = SimpleNamespace(engine_manager=SimpleNamespace(processes=[core]))

    class OneStep:
        engine_core = Core

        def step(self) -> None:
            core.kill()
            raise dead  # at once, as vLLM does where it notices first

        add_request = step

    llm = SimpleNamespace(llm_engine=OneStep())
    left = weakref.ref(llm.llm_engine)
    fail_when_killed(llm)
    with pytest.raises(dead):
        llm.llm_engine.step()
    assert "SIGKILL ended vLLM's engine core" in capsys.readouterr().err
    del llm
    assert left() is None  # nothing keeps an engine after its last use
