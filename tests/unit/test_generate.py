"""Drawing tokens, engines, chunks and their files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
import transformers
from preparekit import byte_tokenizer
from transformers import PreTrainedTokenizerFast

from jobspec.evaluation import read_generations
from worker.draw import draw, uniforms
from worker.engine_hf import HfEngine
from worker.engine_vllm import VllmEngine
from worker.engines import Engine
from worker.generate import NotIndependentError, generate, plan_chunks, refuse_copies
from worker.responses import Responses
from worker.samples import Asked, Chunk, Generation, Plan, Request, Sampling, Store

SAMPLING = Sampling(max_gen_toks=24, temperature=0.8, top_p=0.9)
END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token=END)


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 264,
    "max_position_embeddings": 512,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    # A window shorter than the prompts, on alternating layers.
    "olmo3": lambda: transformers.Olmo3Config(
        **SIZES, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
}


def make_engine(family: str, tokenizer: Any) -> HfEngine:
    torch.manual_seed(0)
    config = CONFIGS[family]()
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = config.bos_token_id = None
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # far from uniform, so that rounding decides nothing
    return HfEngine(model, tokenizer)


def prompts(tokenizer: Any) -> dict[str, tuple[int, ...]]:
    texts = {"a": "one", "b": "a longer question, this", "c": "two words"}
    return {name: tuple(tokenizer(text)["input_ids"]) for name, text in texts.items()}


# --- drawing


def test_a_sample_s_stream_depends_on_its_seed_alone() -> None:
    assert torch.equal(uniforms(7, 50), uniforms(7, 50))
    assert not torch.equal(uniforms(7, 50), uniforms(8, 50))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(max_gen_toks=1, temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(max_gen_toks=1, temperature=1.0, top_p=0.75), [0.625, 0.375, 0, 0]),
        (
            Sampling(max_gen_toks=1, temperature=1.0, top_k=3),
            [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0],
        ),
        (
            Sampling(max_gen_toks=1, temperature=1.0, min_p=0.25),
            [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0],
        ),
        # top-p is taken of what top-k leaves: 0.5 / 0.8 reaches 0.6.
        (Sampling(max_gen_toks=1, temperature=1.0, top_k=2, top_p=0.6), [1, 0, 0, 0]),
        (
            Sampling(max_gen_toks=1, temperature=0.5),
            [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365],
        ),
        (Sampling(max_gen_toks=1, temperature=0.0), [1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_their_probability(sampling: Sampling, expected: list[float]) -> None:
    count = 20_000
    # Not in order of probability, so that sorting and its undoing are tried too.
    order = [2, 0, 3, 1]
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[order].expand(count, 4)
    tokens, logprobs = draw(logits, uniforms(1, count), sampling)
    found = torch.bincount(tokens, minlength=4) / count
    wanted = torch.tensor(expected, dtype=torch.float)[order]
    assert torch.allclose(found, wanted, atol=4 * math.sqrt(0.25 / count))
    assert (found[wanted == 0] == 0).all()
    assert torch.allclose(logprobs, wanted[tokens].log(), atol=1e-5)


def test_a_nucleus_wider_than_the_first_guess() -> None:
    torch.manual_seed(0)
    logits = torch.randn(64, 5000) * 0.01
    numbers = uniforms(3, 64)
    wide = Sampling(max_gen_toks=1, temperature=1.0, top_p=0.999)
    ranked = logits.softmax(-1).sort(descending=True)
    tokens, _ = draw(logits, numbers, wide)
    reached = ranked.values.double().cumsum(-1)
    place = (ranked.indices == tokens[:, None]).double().argmax(-1)
    at = reached.gather(-1, place[:, None])[:, 0]
    assert torch.allclose(at, numbers, atol=1e-3)
    assert place.max() > 3000


def test_presence_penalty_counts_generated_tokens_once() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0]])
    seen = torch.tensor([[True, False, False]])
    greedy = Sampling(max_gen_toks=1, temperature=0.0, presence_penalty=1.5)
    assert draw(logits, uniforms(0, 1), greedy, seen)[0].item() != 0
    assert draw(logits, uniforms(0, 1), greedy, ~seen & False)[0].item() == 0


@pytest.mark.parametrize("number", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_stream_draw_possible_tokens(number: float) -> None:
    logits = torch.tensor([[-math.inf, 2.0, 1.0, -math.inf]])
    for sampling in (Sampling(max_gen_toks=1, temperature=1.0), SAMPLING):
        token, logprob = draw(logits, torch.tensor([number], dtype=torch.float64), sampling)
        assert token.item() in (1, 2)
        assert math.isfinite(logprob.item())


# --- the hf engine


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_text_is_transformers_own(family: str, tokenizer: Any) -> None:
    engine = make_engine(family, tokenizer)
    asked = prompts(tokenizer)
    greedy = Sampling(max_gen_toks=40, temperature=0.0)
    (chunk,) = plan_chunks("job", "bench", asked, 1, greedy, rows=64)
    ((_, rows),) = engine.run(iter([chunk]))
    for row in rows:
        ids = torch.tensor([asked[row.question]])
        out = engine.model.generate(
            ids,
            max_new_tokens=40,
            do_sample=False,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            eos_token_id=sorted(engine.responses.eos),
        )[0, ids.shape[1] :].tolist()
        kept = out[:-1] if out[-1] in engine.responses.eos else out
        assert row.text == tokenizer.decode(kept)
        assert row.tokens == len(out)


def test_a_response_that_ends_by_itself_is_told_from_one_cut_off(tokenizer: Any) -> None:
    engine = make_engine("llama", tokenizer)
    with torch.no_grad():  # the end token a little more likely than any other
        engine.model.lm_head.weight[tokenizer.eos_token_id] *= 3
    sampling = Sampling(max_gen_toks=60, temperature=1.0)
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 32, sampling, rows=64)
    rows = [row for _, rows in engine.run(iter(chunks)) for row in rows]
    stopped = [row for row in rows if row.finish == "stop"]
    assert 0 < len(stopped) < len(rows)
    assert all(END not in row.text for row in rows)
    assert {row.tokens for row in rows if row.finish == "length"} == {60}
    assert all(1 <= row.tokens <= 60 for row in stopped)


def test_rows_that_leave_the_batch_change_nothing(tokenizer: Any) -> None:
    """A row's text is that of a batch from which nobody leaves."""
    engine = make_engine("olmo3", tokenizer)
    with torch.no_grad():
        engine.model.lm_head.weight[tokenizer.eos_token_id] *= 3
    sampling = Sampling(max_gen_toks=60, temperature=1.0, presence_penalty=0.5)
    (chunk,) = plan_chunks("job", "bench", prompts(tokenizer), 8, sampling, rows=64)
    ((_, together),) = engine.run(iter([chunk]))
    assert len({row.tokens for row in together}) > 3
    for request, row in zip(chunk.requests, together, strict=True):
        alone = msgspec.structs.replace(chunk, requests=(request,))
        ((_, (single,)),) = engine.run(iter([alone]))
        assert (single.text, single.tokens) == (row.text, row.tokens)


# --- what holds for every engine


class FakeVllm:
    """The part of vLLM's interface the adapter uses, answering from the request's own seed."""

    TokensPrompt = dict

    class SamplingParams(SimpleNamespace):
        pass

    def __init__(self, end: int) -> None:
        self.end = end
        self.llm_engine = self
        self.waiting: list[tuple[str, Any]] = []
        self.most = 0

    def add_request(self, request_id: str, prompt: Any, params: Any) -> None:
        assert prompt["prompt_token_ids"]
        self.waiting.append((request_id, params))
        self.most = max(self.most, len(self.waiting))

    def step(self) -> list[Any]:
        """The last request finishes first, and an unfinished output comes along."""
        request_id, params = self.waiting.pop()
        ids = [65 + params.seed % 7, 66 + params.seed // 7 % 11, self.end]
        done = SimpleNamespace(
            request_id=request_id,
            finished=True,
            outputs=[SimpleNamespace(token_ids=ids, text="", finish_reason="stop")],
        )
        return [SimpleNamespace(request_id="0.0", finished=False, outputs=[]), done]


def vllm_engine(tokenizer: Any, in_flight: int = 5) -> VllmEngine:
    fake = FakeVllm(tokenizer.eos_token_id)
    responses = Responses(tokenizer, SimpleNamespace(eos_token_id=tokenizer.eos_token_id))
    return VllmEngine(fake, fake, responses, in_flight=in_flight)


@pytest.fixture(params=["hf", "vllm"])
def engine(request: pytest.FixtureRequest, tokenizer: Any) -> Engine:
    return make_engine("llama", tokenizer) if request.param == "hf" else vllm_engine(tokenizer)


def test_contract_every_sample_once_in_the_order_asked(engine: Engine, tokenizer: Any) -> None:
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 5, SAMPLING, rows=4)
    answered = {chunk.index: rows for chunk, rows in engine.run(iter(chunks))}
    assert sorted(answered) == [chunk.index for chunk in chunks]
    for chunk in chunks:
        found = [(row.question, row.sample, row.seed) for row in answered[chunk.index]]
        assert found == [(r.question, r.sample, r.seed) for r in chunk.requests]


def test_contract_the_same_seeds_give_the_same_text(engine: Engine, tokenizer: Any) -> None:
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 5, SAMPLING, rows=4)
    first = {chunk.index: rows for chunk, rows in engine.run(iter(chunks))}
    assert {chunk.index: rows for chunk, rows in engine.run(iter(chunks))} == first
    # And so does a run that starts in the middle.
    rest = {chunk.index: rows for chunk, rows in engine.run(iter(chunks[2:]))}
    assert rest == {index: rows for index, rows in first.items() if index >= 2}


def test_contract_samples_of_a_question_differ(engine: Engine, tokenizer: Any) -> None:
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 6, SAMPLING, rows=64)
    texts: dict[str, set[str]] = {}
    for _, rows in engine.run(iter(chunks)):
        for row in rows:
            texts.setdefault(row.question, set()).add(row.text)
    assert all(len(found) > 1 for found in texts.values())


def test_contract_nothing_to_do(engine: Engine) -> None:
    assert list(engine.run(iter([]))) == []


@pytest.mark.parametrize(
    ("ids", "reason", "wanted"),
    [
        ([65, 66, "end"], "stop", ("AB", 3, "stop")),
        ([65, 66], "stop", ("AB", 2, "stop")),  # the end token left out by the engine
        ([65, 66], "length", ("AB", 2, "length")),
    ],
)
def test_vllm_s_reason_for_ending_is_heard(
    tokenizer: Any, ids: list[Any], reason: str, wanted: tuple[str, int, str]
) -> None:
    spell = {65: tokenizer("A")["input_ids"][0], 66: tokenizer("B")["input_ids"][0]}
    tokens = [tokenizer.eos_token_id if i == "end" else spell[i] for i in ids]
    completion = SimpleNamespace(token_ids=tuple(tokens), finish_reason=reason)
    request = Request(question="q", sample=0, seed=1, prompt=(1,))
    row = vllm_engine(tokenizer)._generation(request, completion)
    assert (row.text, row.tokens, row.finish) == wanted


def test_vllm_is_given_every_sampling_field(tokenizer: Any) -> None:
    engine = vllm_engine(tokenizer)
    request = Request(question="q", sample=0, seed=2**62, prompt=(1, 2))
    sampling = Sampling(
        max_gen_toks=9, temperature=0.7, top_p=0.8, top_k=20, min_p=0.1, presence_penalty=1.5
    )
    fields = engine._fields(request, sampling)
    assert fields | {"detokenize": False} == {
        "n": 1,
        "seed": 2**62,
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "min_p": 0.1,
        "presence_penalty": 1.5,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "stop": None,
        "stop_token_ids": [tokenizer.eos_token_id],
        "detokenize": False,
    }
    unset = engine._fields(request, Sampling(max_gen_toks=9, temperature=0.7))
    assert (unset["top_p"], unset["top_k"], unset["min_p"], unset["presence_penalty"]) == (
        1,
        0,
        0,
        0,
    )


@pytest.mark.gpu
def test_vllm_accepts_those_fields(tokenizer: Any) -> None:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    request = Request(question="q", sample=0, seed=2**62, prompt=(1, 2))
    fields = vllm_engine(tokenizer)._fields(request, SAMPLING)
    made = vllm.SamplingParams(**fields)
    assert (made.seed, made.top_k, made.detokenize) == (2**62, 0, False)


def test_vllm_holds_no_more_than_its_share(tokenizer: Any) -> None:
    engine = vllm_engine(tokenizer, in_flight=5)
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 8, SAMPLING, rows=2)
    assert len(list(engine.run(iter(chunks)))) == 12
    assert engine._llm.most == 6  # whole chunks of two, pulled while fewer than five are held


# --- chunks and their files


def test_chunks_are_fixed_by_what_is_asked(tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    chunks = plan_chunks("job", "bench", asked, 5, SAMPLING, rows=4)
    shuffled = dict(reversed(asked.items()))
    assert plan_chunks("job", "bench", shuffled, 5, SAMPLING, rows=4) == chunks
    order = [(r.question, r.sample) for chunk in chunks for r in chunk.requests]
    assert order == [(name, sample) for name in "bca" for sample in range(5)]
    assert [len(chunk.requests) for chunk in chunks] == [4, 4, 4, 3]


def test_every_sample_has_a_seed_of_its_own(tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    seeds = [
        request.seed
        for job in ("job a", "job b")
        for bench in ("one", "two")
        for chunk in plan_chunks(job, bench, asked, 8, SAMPLING, rows=4)
        for request in chunk.requests
    ]
    assert len(set(seeds)) == len(seeds) == 2 * 2 * 3 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


class Recorded:
    """An engine that answers at once and remembers what it was asked; it may die before a chunk."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[int] = []
        self._dies_at = dies_at

    def run(self, chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, list[Generation]]]:
        for chunk in chunks:
            if chunk.index == self._dies_at:
                raise KeyboardInterrupt
            self.asked.append(chunk.index)
            yield (
                chunk,
                [
                    Generation(
                        question=r.question,
                        sample=r.sample,
                        seed=r.seed,
                        text=f"text {r.seed}",
                        tokens=1,
                        finish="stop",
                    )
                    for r in chunk.requests
                ],
            )

    def close(self) -> None: ...


def make_work(directory: Path, asked: dict[str, Any], *, key: str = "k", earlier: Any = ()) -> Any:
    chunks = plan_chunks("job", "bench", asked, 4, SAMPLING, rows=3)
    plan = Plan(key=key, benchmark="bench", form="aime", k=4, chunks=len(chunks))
    store = Store(directory, plan, earlier)
    store.open([Asked(id=name, answer="1") for name in asked])
    return [(store, chunks)]


def nothing(done: int, total: int) -> None: ...


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    whole = generate(lambda _: Recorded(), make_work(tmp_path / "whole", asked), nothing).samples
    with pytest.raises(KeyboardInterrupt):
        generate(lambda _: Recorded(dies_at=2), make_work(tmp_path / "one", asked), nothing)
    second = Recorded()
    progress: list[tuple[int, int]] = []
    work = make_work(tmp_path / "two", asked, earlier=[tmp_path / "one"])
    result = generate(lambda _: second, work, lambda done, total: progress.append((done, total)))
    assert second.asked == [2, 3]
    assert progress == [(6, 12), (9, 12), (12, 12)]
    assert result.samples == whole
    for name in ("generations-00000.jsonl", "generations-00003.jsonl", "questions.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_needs_no_engine(tmp_path: Path, tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    first = generate(lambda _: Recorded(), make_work(tmp_path / "one", asked), nothing).samples

    def no_engine(samples: int) -> Engine:
        raise AssertionError("nothing is left to draw")

    again = generate(no_engine, make_work(tmp_path / "one", asked), nothing)
    assert (again.samples, again.tokens, again.seconds) == (first, 0, 0.0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1])),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"sample":0', b'"sample":1')),
        lambda path: path.unlink(),
    ],
    ids=["torn", "empty", "short", "another sample", "gone"],
)
def test_a_damaged_chunk_is_drawn_again(tmp_path: Path, tokenizer: Any, damage: Any) -> None:
    asked = prompts(tokenizer)
    first = generate(lambda _: Recorded(), make_work(tmp_path / "one", asked), nothing).samples
    damage(tmp_path / "one" / "generations-00001.jsonl")
    again = Recorded()
    work = make_work(tmp_path / "one", asked)
    assert generate(lambda _: again, work, nothing).samples == first
    assert again.asked == [1]


def test_samples_of_other_settings_are_not_taken(tmp_path: Path, tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    generate(lambda _: Recorded(), make_work(tmp_path / "one", asked), nothing)
    again = Recorded()
    work = make_work(tmp_path / "two", asked, key="other", earlier=[tmp_path / "one"])
    generate(lambda _: again, work, nothing)
    assert again.asked == [0, 1, 2, 3]
    # In the same directory too: what the other settings left is removed.
    again = Recorded()
    generate(lambda _: again, make_work(tmp_path / "one", asked, key="other"), nothing)
    assert again.asked == [0, 1, 2, 3]


def test_what_was_drawn_can_be_read_back(tmp_path: Path, tokenizer: Any) -> None:
    asked = prompts(tokenizer)
    drawn = generate(lambda _: Recorded(), make_work(tmp_path / "one", asked), nothing)
    plan, rows, samples = read_generations(tmp_path / "one")
    assert (plan.k, [row.id for row in rows], samples) == (4, list(asked), drawn.samples[0])


# --- independence


def copies(logprob: float | None, tokens: int = 100, count: int = 3) -> dict[str, list[Generation]]:
    return {
        name: [
            Generation(
                question=name,
                sample=i,
                seed=i,
                text="the same",
                tokens=tokens,
                finish="stop",
                logprob=logprob,
            )
            for i in range(count)
        ]
        for name in ("x", "y")
    }


def test_equal_samples_that_chance_can_not_explain_are_refused() -> None:
    with pytest.raises(NotIndependentError, match="all 3 samples of `x`"):
        refuse_copies(copies(-50.0), SAMPLING)
    with pytest.raises(NotIndependentError):
        refuse_copies(copies(None), SAMPLING)


def test_equal_samples_of_a_sure_model_are_accepted() -> None:
    refuse_copies(copies(-0.01), SAMPLING)
    refuse_copies(copies(None, tokens=5), SAMPLING)
    refuse_copies(copies(-50.0, count=1), SAMPLING)
    refuse_copies(copies(-50.0), Sampling(max_gen_toks=1, temperature=0.0))
    half = copies(None)
    half["y"][0] = msgspec.structs.replace(half["y"][0], text="another")
    refuse_copies(half, SAMPLING)


def test_an_engine_that_ignores_seeds_is_caught(tokenizer: Any) -> None:
    engine = make_engine("llama", tokenizer)
    sampling = Sampling(max_gen_toks=40, temperature=1.0)
    (chunk,) = plan_chunks("job", "bench", prompts(tokenizer), 4, sampling, rows=64)
    same = tuple(msgspec.structs.replace(request, seed=5) for request in chunk.requests)
    ((_, rows),) = engine.run(iter([msgspec.structs.replace(chunk, requests=same)]))
    samples: dict[str, list[Generation]] = {}
    for row in rows:
        samples.setdefault(row.question, []).append(row)
    with pytest.raises(NotIndependentError):
        refuse_copies(samples, sampling)
