"""The engines: tests of each one, and of the contract they share."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
import transformers

from jobspec.benchmarks import protocol
from jobspec.errors import ModelError, SpecError
from jobspec.records.reports import ScoringProtocol
from jobspec.spec.schema import ModelSpec
from tests.support.engine_contract import CONTRACT
from tests.support.engines import (
    CONFIGS,
    END,
    SAMPLING,
    SIZES,
    make_continuous,
    make_engine,
    prompts,
)
from tests.support.nvml import pretend_gpus
from tests.support.vllm_packages import install
from worker.inference.decode import STOP_INTERVAL, Responses
from worker.inference.engine import Engine, EngineChoice, Weights, choose, resolve_backend
from worker.inference.hf_engine import HfEngine
from worker.inference.requests import ResponseRules, SampleChunk, SampleRequest, Sampling
from worker.inference.vllm_engine import VllmEngine
from worker.samples.generation import plan_chunks


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


def test_a_finished_response_is_distinguished_from_one_cut_off(tokenizer: Any) -> None:
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
    """A row's text is the same as in a batch that no row leaves."""
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


STATEFUL = {
    "mamba": lambda: transformers.MambaConfig(
        hidden_size=32, num_hidden_layers=2, state_size=8, vocab_size=264
    ),
    "lfm2": lambda: transformers.Lfm2Config(
        **SIZES, layer_types=["conv", "full_attention"], conv_L_cache=3
    ),
}


@pytest.mark.parametrize("family", STATEFUL)
def test_a_model_with_a_state_generates_one_by_one(family: str, tokenizer: Any) -> None:
    """Each token is the likeliest after all before it, computed at once without a cache."""
    torch.manual_seed(0)
    config = STATEFUL[family]()
    config.eos_token_id = tokenizer.eos_token_id
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.repetition_penalty = 3.0  # a setting of the model's own
    engine = HfEngine(model, tokenizer)
    asked = prompts(tokenizer)
    greedy = Sampling(max_gen_toks=8, temperature=0.0)
    (chunk,) = plan_chunks("job", "bench", asked, 1, greedy, rows=64)
    for row in (row for _, rows in engine.run(iter([chunk])) for row in rows):
        ids = list(asked[row.question])
        for _ in range(row.tokens):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert row.text == tokenizer.decode(ids[len(asked[row.question]) :])
    drawn = Sampling(max_gen_toks=8, temperature=0.8)
    chunks = plan_chunks("job", "bench", asked, 2, drawn, rows=4)
    first, *rest = [list(engine.run(iter(chunks))), list(engine.run(iter(chunks)))]
    assert rest == [first]
    assert len({row.text for _, rows in first for row in rows}) > len(asked)


class FakeVllm:
    """The part of vLLM's interface the adapter uses, answering from the request's own seed."""

    TokensPrompt = dict
    sampling_params = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY="final"))

    class SamplingParams(SimpleNamespace):
        pass

    def __init__(self, end: int) -> None:
        self.end = end
        self.llm_engine = self.engine_core = self
        self.shut_down = 0
        self.waiting: list[tuple[str, Any]] = []
        self.most = 0

    def shutdown(self) -> None:
        self.shut_down += 1

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


class StreamingVllm(FakeVllm):
    """Answers every request with the same tokens, two at each step until the request is aborted."""

    sampling_params = SimpleNamespace(
        RequestOutputKind=SimpleNamespace(FINAL_ONLY="final", DELTA="delta")
    )

    def __init__(self, tokens: list[int], reason: str = "length") -> None:
        super().__init__(end=0)
        self.tokens, self.reason = tokens, reason
        self.sent: dict[str, int] = {}
        self.aborted: list[str] = []

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids

    def step(self) -> list[Any]:
        made = []
        for name, params in list(self.waiting):
            start = self.sent.get(name, 0)
            end = start + 2 if params.output_kind == "delta" else len(self.tokens)
            self.sent[name] = end
            done = name in self.aborted or end >= len(self.tokens)
            if done:
                self.waiting.remove((name, params))
            made.append(SimpleNamespace(
                request_id=name, finished=done,
                outputs=[SimpleNamespace(
                    token_ids=self.tokens[start:end], finish_reason=self.reason if done else None
                )],
            ))  # fmt: skip
        return made


class OwnClasses(FakeVllm):
    """The same, taking vLLM's own arguments and answering with vLLM's own outputs."""

    def __init__(self, vllm: Any, end: int) -> None:
        super().__init__(end)
        self.TokensPrompt = vllm.TokensPrompt
        self.SamplingParams = vllm.SamplingParams
        self.sampling_params = vllm.sampling_params
        self.outputs = vllm.outputs

    def step(self) -> list[Any]:
        return [self._own(output) for output in super().step()]

    def _own(self, output: Any) -> Any:
        found = [
            self.outputs.CompletionOutput(
                index=0,
                text=made.text,
                token_ids=made.token_ids,
                cumulative_logprob=None,
                logprobs=None,
                finish_reason=made.finish_reason,
            )
            for made in output.outputs
        ]
        return self.outputs.RequestOutput(
            request_id=output.request_id,
            prompt=None,
            prompt_token_ids=[1],
            prompt_logprobs=None,
            outputs=found,
            finished=output.finished,
        )


@pytest.fixture(scope="session")
def vllm() -> Any:
    """The real package: its classes need no GPU, only an engine does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # others' imports
        found = pytest.importorskip("vllm", reason="vLLM is not installed")
        importlib.import_module("vllm.outputs")
        return found


def vllm_engine(tokenizer: Any, in_flight: int = 5, fake: FakeVllm | None = None) -> VllmEngine:
    fake = fake or FakeVllm(tokenizer.eos_token_id)
    responses = Responses(tokenizer, tokenizer.eos_token_id)
    return VllmEngine(fake, fake, responses, in_flight=in_flight)


@pytest.fixture(
    params=["hf", "continuous", "vllm", pytest.param("own classes", marks=pytest.mark.vllm)]
)
def engine(request: pytest.FixtureRequest, tokenizer: Any) -> Engine:
    if request.param == "own classes":
        fake = OwnClasses(request.getfixturevalue("vllm"), tokenizer.eos_token_id)
        return vllm_engine(tokenizer, fake=fake)
    if request.param == "vllm":
        return vllm_engine(tokenizer)
    engine = make_engine("llama", tokenizer)
    return engine if request.param == "hf" else make_continuous(engine)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_contract(engine: Engine, tokenizer: Any, promise: Callable[[Engine, Any], None]) -> None:
    promise(engine, tokenizer)


@pytest.mark.parametrize(
    ("ids", "reason", "wanted"),
    [
        ([65, 66, "end"], "stop", ("AB", 3, "stop")),
        ([65, 66], "stop", ("AB", 2, "stop")),  # the end token left out by the engine
        ([65, 66], "length", ("AB", 2, "length")),
    ],
)
def test_vllm_s_finish_reason_is_used(
    tokenizer: Any, ids: list[Any], reason: str, wanted: tuple[str, int, str]
) -> None:
    spell = {65: tokenizer("A")["input_ids"][0], 66: tokenizer("B")["input_ids"][0]}
    tokens = [tokenizer.eos_token_id if i == "end" else spell[i] for i in ids]
    request = SampleRequest(question="q", sample=0, seed=1, prompt=(1,))
    chunk = SampleChunk(benchmark="b", index=0, sampling=SAMPLING, requests=(request,))
    fake = StreamingVllm(tokens, reason)
    ((_, (row,)),) = vllm_engine(tokenizer, fake=fake).run(iter([chunk]))
    assert (row.text, row.tokens, row.finish) == wanted


@pytest.mark.parametrize("kind", ["hf", "one by one", "continuous"])
def test_a_sample_ends_at_a_stop_string(tokenizer: Any, kind: str) -> None:
    """Its text ends before the string, and its tokens with the interval in which it appeared."""
    engine: Any = make_engine("llama", tokenizer)
    responses = engine.responses
    if kind == "one by one":
        engine._batches = False
    if kind == "continuous":
        engine = make_continuous(engine)
    sampling = Sampling(max_gen_toks=60, temperature=0.8, top_p=0.9)
    asked = prompts(tokenizer)
    whole = [
        row
        for _, rows in engine.run(iter(plan_chunks("job", "bench", asked, 2, sampling, rows=64)))
        for row in rows
    ]
    stop = next(row.text[20:22] for row in whole if row.text[20:22].isascii())
    rules = ResponseRules(stops=(stop,))
    chunks = plan_chunks("job", "bench", asked, 2, sampling, rows=64, rules=rules)
    rows = [row for _, rows in engine.run(iter(chunks)) for row in rows]
    assert stop in "".join(row.text for row in whole)
    for before, row in zip(whole, rows, strict=True):
        expected = before.text.partition(stop)[0]
        assert row.text == expected
        if stop in before.text:
            assert row.finish == "stop"
            assert row.tokens % STOP_INTERVAL == 0 or row.tokens == before.tokens
            assert row.tokens - STOP_INTERVAL < len(
                responses._tokenizer(expected + stop)["input_ids"]
            )
        else:
            assert (row.tokens, row.finish) == (before.tokens, before.finish)


def test_vllm_ends_a_sample_at_a_stop_string_after_thinking(tokenizer: Any) -> None:
    text = "<think>Problem: 1</think>It is 7.\nProblem: another question, and so on"
    tokens = tokenizer(text)["input_ids"]
    fake = StreamingVllm(tokens)
    rules = ResponseRules(think_end_token="</think>", stops=("Problem:",))
    (chunk,) = plan_chunks("job", "bench", {"q": (1,)}, 2, SAMPLING, rows=4, rules=rules)
    ((_, rows),) = vllm_engine(tokenizer, fake=fake).run(iter([chunk]))
    reached = len(tokenizer(text[: text.rindex("Problem:") + 8])["input_ids"])
    for row in rows:
        assert row.text == "<think>Problem: 1</think>It is 7.\n"
        assert row.finish == "stop"
        assert row.tokens == -(-reached // STOP_INTERVAL) * STOP_INTERVAL
    assert sorted(fake.aborted) == ["0.0", "0.1"]


def test_vllm_gets_every_sampling_field(tokenizer: Any) -> None:
    engine = vllm_engine(tokenizer)
    request = SampleRequest(question="q", sample=0, seed=2**62, prompt=(1, 2))
    sampling = Sampling(
        max_gen_toks=9, temperature=0.7, top_p=0.8, top_k=20, min_p=0.1, presence_penalty=1.5
    )
    fields = engine._fields(request, sampling)
    assert fields == {
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
        "output_kind": "final",
    }
    unset = engine._fields(request, Sampling(max_gen_toks=9, temperature=0.7))
    assert (unset["top_p"], unset["top_k"], unset["min_p"], unset["presence_penalty"]) == (
        1,
        0,
        0,
        0,
    )


@pytest.mark.vllm
def test_vllm_accepts_those_fields(vllm: Any, tokenizer: Any) -> None:
    request = SampleRequest(question="q", sample=0, seed=2**62, prompt=(1, 2))
    own = OwnClasses(vllm, tokenizer.eos_token_id)
    fields = vllm_engine(tokenizer, fake=own)._fields(request, SAMPLING)
    made = vllm.SamplingParams(**fields)
    assert (made.seed, made.top_k, made.detokenize) == (2**62, 0, False)
    assert made.all_stop_token_ids == {tokenizer.eos_token_id}


@pytest.mark.vllm
def test_vllm_takes_what_it_is_loaded_and_called_with(
    vllm: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    engine = importlib.import_module("vllm.v1.engine.llm_engine").LLMEngine
    given: dict[str, Any] = {}

    def load(**asked: Any) -> Any:
        given.update(asked)
        return SimpleNamespace(llm_engine=None)

    monkeypatch.setattr(vllm, "LLM", load)
    make_engine("llama", tokenizer).model.config.save_pretrained(tmp_path)
    VllmEngine.load(Weights(directory=str(tmp_path)), tokenizer, context=512)
    assert given["max_model_len"] == 512 and given["enable_prefix_caching"] is True
    assert given["kv_cache_dtype"] == "auto"
    weights = Weights(directory=str(tmp_path), kv_cache_dtype="fp8", enable_prefix_caching=False)
    VllmEngine.load(weights, tokenizer, context=512)
    assert given["kv_cache_dtype"] == "fp8" and given["enable_prefix_caching"] is False
    assert given.keys() <= inspect.signature(arguments).parameters.keys()
    # As the adapter calls them: three arguments by their places, and none.
    inspect.signature(engine.add_request).bind(None, "0.0", {}, None)
    inspect.signature(engine.step).bind(None)
    inspect.signature(engine.abort_request).bind(None, ["0.0"])


def test_vllm_holds_no_more_than_its_share(tokenizer: Any) -> None:
    engine = vllm_engine(tokenizer, in_flight=5)
    chunks = plan_chunks("job", "bench", prompts(tokenizer), 8, SAMPLING, rows=2)
    assert len(list(engine.run(iter(chunks)))) == 12
    assert engine._llm.most == 6  # whole chunks of two, pulled while fewer than five are held


def test_closing_vllm_ends_its_processes_once(tokenizer: Any) -> None:
    fake = FakeVllm(tokenizer.eos_token_id)
    engine = vllm_engine(tokenizer, fake=fake)
    engine.close()
    engine.close()
    assert fake.shut_down == 1


def test_an_engine_without_the_cache_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64}')
    model = ModelSpec(name="m")
    assert choose("hf", model, tmp_path, gpus=0).weights.kv_cache_dtype == "auto"
    with pytest.raises(ModelError, match="there is no GPU") as caught:
        choose("auto", model, tmp_path, gpus=0, kv_cache_dtype="fp8")
    assert caught.value.place == "$.eval.kv_cache_dtype"


def test_the_cache_is_part_of_the_protocol_and_of_what_shapes_a_sample() -> None:
    usual = EngineChoice(name="vllm", weights=Weights(directory="m"), context=64)
    other = Weights(directory="m", kv_cache_dtype="fp8", enable_prefix_caching=False)
    changed = msgspec.structs.replace(usual, weights=other)
    before, after = (each.add_facts(ScoringProtocol()) for each in (usual, changed))
    assert [each.field for each in protocol.differences(before, after)] == ["kv_cache_dtype"]
    assert after.enable_prefix_caching is False
    # As before there were such options, so that samples from before are found again.
    assert list(usual.weights.shaping_fields()) == [
        "directory",
        "dtype",
        "attn_implementation",
        "trust_remote_code",
    ]
    assert other.shaping_fields() == usual.weights.shaping_fields() | {"kv_cache_dtype": "fp8"}


def test_determinism_is_recorded_and_shapes_a_sample() -> None:
    usual = Weights(directory="m")
    strict = msgspec.structs.replace(usual, deterministic=True)
    assert strict.shaping_fields() == usual.shaping_fields() | {"deterministic": True}
    facts = EngineChoice(name="hf", weights=strict, context=64).add_facts(ScoringProtocol())
    assert facts.deterministic is True
    plain = EngineChoice(name="hf", weights=usual, context=64).add_facts(ScoringProtocol())
    assert plain.deterministic is msgspec.UNSET


def test_auto_is_deterministic_with_vllm_only_on_gpus_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "vllm")
    monkeypatch.syspath_prepend(tmp_path)
    pretend_gpus(monkeypatch, capability=(7, 5))
    name, reason = resolve_backend("auto", 1, deterministic=True)
    assert name == "hf" and "needs compute capability 8.0" in reason and "H100" in reason
    assert resolve_backend("auto", 1)[0] == "vllm"
    with pytest.raises(SpecError, match="compute capability") as caught:
        resolve_backend("vllm", 1, deterministic=True)
    assert caught.value.place == "$.eval.deterministic"
    pretend_gpus(monkeypatch, capability=(9, 0))
    assert resolve_backend("auto", 1, deterministic=True)[0] == "vllm"
    assert resolve_backend("vllm", 1, deterministic=True)[0] == "vllm"


def test_deterministic_arithmetic_does_not_depend_on_the_number_of_cores(
    tmp_path: Path, tokenizer: Any
) -> None:
    torch.manual_seed(0)
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(tmp_path)
    ids = torch.randint(0, 264, (8, 40))
    before = torch.get_num_threads()

    def logits(threads: int, *, deterministic: bool) -> torch.Tensor:
        torch.set_num_threads(threads)
        weights = Weights(directory=str(tmp_path), dtype="float32", deterministic=deterministic)
        engine = HfEngine.load(weights, tokenizer)
        assert isinstance(engine, HfEngine)
        with torch.inference_mode():
            return engine.model(input_ids=ids).logits

    try:
        assert not torch.equal(logits(1, deterministic=False), logits(3, deterministic=False))
        assert torch.equal(logits(1, deterministic=True), logits(3, deterministic=True))
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)
