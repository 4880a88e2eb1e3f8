"""The real vLLM as an engine: what it draws, and that its processes end with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.vllm import living, vllm_processes
from tests.support.waiting import until
from worker.evaluation.generation import plan_chunks
from worker.evaluation.lm_eval_model import load_tokenizer
from worker.inference.engine import Engine, EngineChoice, Weights
from worker.inference.hf_engine import HfEngine
from worker.inference.pool import EngineDiedError, EnginePool
from worker.inference.requests import SampleChunk, Sampling

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]
SAMPLING = Sampling(max_gen_toks=24, temperature=0.8, top_p=0.9)


@pytest.fixture(scope="module")
def tokenizer(choice: EngineChoice) -> Any:
    return load_tokenizer(choice.weights.directory, template=None, trust_remote_code=False)


@pytest.fixture(scope="module")
def engine(choice: EngineChoice, tokenizer: Any) -> Iterator[Any]:
    engine = choice.load(tokenizer)
    yield engine
    engine.close()


def planned(tokenizer: Any, k: int, sampling: Sampling, rows: int = 4) -> list[SampleChunk]:
    texts = {"a": "one", "b": "a longer question, this", "c": "two words"}
    prompts = {name: tuple(tokenizer(text)["input_ids"]) for name, text in texts.items()}
    return plan_chunks("job", "bench", prompts, k, sampling, rows=rows)


def drawn(engine: Engine, chunks: list[SampleChunk]) -> dict[int, Any]:
    return {chunk.index: rows for chunk, rows in engine.run(iter(chunks))}


def test_every_sample_comes_once_in_the_order_asked(engine: Any, tokenizer: Any) -> None:
    chunks = planned(tokenizer, 5, SAMPLING)
    answered = drawn(engine, chunks)
    assert sorted(answered) == [chunk.index for chunk in chunks]
    for chunk in chunks:
        found = [(row.question, row.sample, row.seed) for row in answered[chunk.index]]
        assert found == [(r.question, r.sample, r.seed) for r in chunk.requests]
    assert len({row.text for rows in answered.values() for row in rows}) > 10


def test_the_same_seeds_give_the_same_text(engine: Any, tokenizer: Any) -> None:
    chunks = planned(tokenizer, 5, SAMPLING)
    first = drawn(engine, chunks)
    assert drawn(engine, chunks) == first
    assert drawn(engine, chunks[2:]) == {index: first[index] for index in first if index >= 2}


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
    drawn(engine, planned(tokenizer, 2, SAMPLING))
    assert len(outputs) == 6 and all(output.finished for output in outputs)


def test_greedy_text_is_that_of_hf(engine: Any, tokenizer: Any, choice: EngineChoice) -> None:
    assert not (Path(choice.weights.directory) / "generation_config.json").exists()
    chunks = planned(tokenizer, 1, Sampling(max_gen_toks=40, temperature=0.0), rows=8)
    hf = HfEngine.load(Weights(directory=choice.weights.directory, dtype="float32"), tokenizer)
    wanted = [(row.text, row.tokens, row.finish) for row in drawn(hf, chunks)[0]]
    assert [(row.text, row.tokens, row.finish) for row in drawn(engine, chunks)[0]] == wanted


def test_a_second_engine_follows_the_first_in_one_process(
    choice: EngineChoice, tokenizer: Any
) -> None:
    before = set(vllm_processes(os.getpid()))
    chunks = planned(tokenizer, 1, SAMPLING)
    texts: list[Any] = []
    for _ in range(2):
        engine = choice.load(tokenizer)
        own = [each for each in vllm_processes(os.getpid()) if each not in before]
        assert own
        texts.append(drawn(engine, chunks))
        engine.close()
        assert living(own) == []
    assert texts[0] == texts[1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_nothing_is_left_when_the_engines_parent_is_killed(
    choice: EngineChoice, tokenizer: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", method)
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
