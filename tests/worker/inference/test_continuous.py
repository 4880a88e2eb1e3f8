"""Continuous batching: it draws what our own loop draws, and refuses a model that it gets wrong."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import torch
import transformers

from tests.support.engines import CONFIGS, SIZES, make_continuous, make_engine, prompts
from worker.inference import continuous
from worker.inference.decode import Responses
from worker.inference.hf_engine import HfEngine, continuous_if_possible
from worker.inference.requests import SampleChunk, Sampling
from worker.kernels import paged_attention
from worker.samples.generation import plan_chunks

SAMPLINGS = {
    "greedy": Sampling(max_gen_toks=30, temperature=0.0),
    "plain": Sampling(max_gen_toks=30, temperature=1.0),
    "all": Sampling(
        max_gen_toks=30, temperature=0.7, top_p=0.9, top_k=50, min_p=0.01, presence_penalty=0.5
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def samples(engine: Any, chunks: list[SampleChunk]) -> dict[tuple[str, str, int], Any]:
    return {
        (chunk.benchmark, row.question, row.sample): row
        for chunk, rows in engine.run(iter(chunks))
        for row in rows
    }


def all_chunks(tokenizer: Any) -> list[SampleChunk]:
    """Of three benchmarks with their own settings, so that one batch holds several."""
    asked = prompts(tokenizer)
    return [
        chunk
        for name, sampling in SAMPLINGS.items()
        for chunk in plan_chunks("job", name, asked, 3, sampling, rows=2)
    ]


@pytest.mark.parametrize("family", CONFIGS)
def test_it_draws_what_our_own_loop_draws(family: str, tokenizer: Any) -> None:
    engine = make_engine(family, tokenizer)
    with torch.no_grad():  # the end token is likelier, so that samples leave at different steps
        engine.model.lm_head.weight[tokenizer.eos_token_id] *= 3
    chunks = all_chunks(tokenizer)
    expected = samples(engine, chunks)
    found = samples(make_continuous(engine, in_flight=8), chunks)
    assert len({row.tokens for row in found.values()}) > 3
    assert found.keys() == expected.keys()
    for key, row in found.items():
        other = expected[key]
        assert (row.text, row.tokens, row.finish) == (other.text, other.tokens, other.finish)
        assert row.logprob == pytest.approx(other.logprob, abs=2e-3)


def test_samples_that_lose_their_pages_go_on_with_the_same_text(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full cache drops some samples, and computes them again from their tokens."""
    monkeypatch.setattr(continuous, "_PAGE_TOKENS", 8)
    resets: list[str] = []
    state = transformers.generation.continuous_batching.requests.RequestState
    again = state.create_equivalent_initial_request

    def counted(self: Any) -> Any:
        resets.append(self.request_id)
        return again(self)

    monkeypatch.setattr(state, "create_equivalent_initial_request", counted)
    engine = make_engine("llama", tokenizer)
    chunks = plan_chunks("job", "all", prompts(tokenizer), 4, SAMPLINGS["all"], rows=2)
    expected = samples(engine, chunks)
    found = samples(make_continuous(engine, in_flight=12, cache_tokens=256), chunks)
    assert resets
    assert {key: row.text for key, row in found.items()} == {
        key: row.text for key, row in expected.items()
    }


def test_the_manager_s_thread_ends_where_nobody_reads_on(tokenizer: Any) -> None:
    before = threading.active_count()
    engine = make_continuous(make_engine("llama", tokenizer))
    running = engine.run(iter(all_chunks(tokenizer)))
    next(running)
    assert threading.active_count() == before + 1
    running.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert threading.active_count() == before
    assert engine.model.config._attn_implementation != paged_attention.NAME


@pytest.mark.parametrize(
    ("message", "kind"),
    [("CUDA out of memory. Tried to allocate 2 GiB", MemoryError), ("lost", RuntimeError)],
)
def test_an_error_in_the_manager_s_thread_ends_the_run(
    message: str, kind: type[Exception], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_continuous(make_engine("llama", tokenizer))

    def fail(*given: Any) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(continuous, "draw_next", fail)
    with pytest.raises(kind, match=message[:15]):
        samples(engine, all_chunks(tokenizer))


def own_engine(config: Any, tokenizer: Any) -> HfEngine:
    torch.manual_seed(0)
    config.eos_token_id = tokenizer.eos_token_id
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    return HfEngine(model, tokenizer)


UNSUITABLE = {
    "a state": lambda: transformers.Lfm2Config(
        **SIZES, layer_types=["conv", "full_attention"], conv_L_cache=3
    ),
    "capped scores": lambda: transformers.Gemma2Config(
        **SIZES, head_dim=8, attn_logit_softcapping=1.0
    ),
    "ALiBi": lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=264),
}


@pytest.mark.parametrize("what", UNSUITABLE)
def test_a_model_it_can_t_run_is_generated_with_by_our_own_loop(
    what: str, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = own_engine(UNSUITABLE[what](), tokenizer)
    before = engine.model.config._attn_implementation
    with caplog.at_level(logging.WARNING, "worker.inference.hf_engine"):
        assert continuous_if_possible(engine, 4) is engine
    assert "no continuous batching" in caplog.text
    assert engine.model.config._attn_implementation == before
    chunks = plan_chunks("job", "all", prompts(tokenizer), 1, SAMPLINGS["plain"], rows=2)
    assert len(samples(engine, chunks)) == 3


def test_a_model_it_can_run_is_generated_with_by_it(tokenizer: Any) -> None:
    engine = make_engine("qwen3", tokenizer)
    assert isinstance(continuous_if_possible(engine, 4), continuous.ContinuousEngine)


@pytest.mark.parametrize("wrong", ["window", "scale", "first key"])
def test_attention_that_is_wrong_is_noticed(
    wrong: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = paged_attention._by_sample

    def broken(q: Any, k: Any, v: Any, queries: Any, keys: Any, scale: Any, window: Any) -> Any:
        if wrong == "window":
            window = None
        if wrong == "scale":
            scale = 1.0
        if wrong == "first key":
            k = k.clone()
            k[keys.ends[:-1].long()] = 0
        return right(q, k, v, queries, keys, scale, window)

    monkeypatch.setattr(paged_attention, "_by_sample", broken)
    with pytest.raises(NotImplementedError, match="other tokens"):
        make_continuous(make_engine("olmo3", tokenizer))


def test_the_tokens_of_a_failed_trial_are_those_of_the_model(tokenizer: Any) -> None:
    """The trial compares with the model's own logits: a changed model fails it."""
    engine = make_engine("llama", tokenizer)
    made = make_continuous(engine)
    assert isinstance(engine.responses, Responses)
    prompt = (3, 4, 5)
    with torch.no_grad():
        best = int(engine.model(torch.tensor([prompt])).logits[0, -1].argmax())
    assert made._likeliest(prompt, [best])
    assert not made._likeliest(prompt, [(best + 1) % 264])
