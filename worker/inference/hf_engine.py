"""The engine that runs anywhere: models of Transformers.

On a GPU it is Transformers' continuous batching (see `continuous`) if that can run the model. On a
CPU, and for other models, it is our own decoding loop: one chunk is one batch, padded on the left,
and the samples of a question share the computation of its prompt. A chunk always holds the same
requests, and every sample has its own random stream, so a chunk gives the same text again on the
same kind of machine; with `eval.deterministic` a GPU generates in this way too. Models with layers
that carry a state, whose caches can't do that, generate one sample after the other.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList

from jobspec.records.evaluation import Generation
from worker.inference import determinism
from worker.inference.decode import STOP_INTERVAL, Responses
from worker.inference.engine import Engine, Weights
from worker.inference.requests import SampleChunk, SampleRequest
from worker.inference.sampling import draw, uniforms
from worker.inference.streams import DrawOne
from worker.kernels.gqa_decode import group_queries

_log = logging.getLogger(__name__)


class HfEngine:
    """Transformers with our own decoding loop, on the CPU or on one GPU."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        group_queries(model)
        self.responses = Responses(tokenizer, model.generation_config.eos_token_id)
        # Its settings must not change sampling in ways that the spec does not ask for.
        model.generation_config = GenerationConfig()
        accepted = inspect.signature(model.forward).parameters
        self._extras: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._positions = "position_ids" in accepted
        self._batches = _has_selectable_cache(model)
        self.method = "one chunk at a time" if self._batches else "one sample at a time"

    @classmethod
    def load(
        cls, weights: Weights, tokenizer: Any, *, context: int | None = None, in_flight: int = 1
    ) -> Engine:
        """Load the weights onto the GPU if there is one, and choose how to generate with them.

        Args:
            context: not used; for engines that reserve memory for it.
            in_flight: samples held at a time by continuous batching.
        """
        from transformers import AutoModelForCausalLM

        gpu = torch.cuda.is_available()
        if weights.deterministic:
            determinism.make_torch_deterministic()
        extra = (
            {}
            if weights.attn_implementation == "auto"
            else {"attn_implementation": weights.attn_implementation}
        )
        model: Any = AutoModelForCausalLM.from_pretrained(
            weights.directory,
            dtype=getattr(torch, weights.dtype),
            trust_remote_code=weights.trust_remote_code,
            **extra,
        )
        engine = cls(model.to("cuda" if gpu else "cpu").eval(), tokenizer)
        # A continuous batch holds what happens to run at the time; a chunk is always the same.
        continuous = gpu and not weights.deterministic
        return continuous_if_possible(engine, in_flight) if continuous else engine

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        """Generate one chunk after the other, each as one batch."""
        for chunk in chunks:
            with torch.inference_mode():
                yield chunk, self._chunk(chunk)

    def close(self) -> None:
        """Does nothing: memory is freed when the process ends."""

    def _chunk(self, chunk: SampleChunk) -> list[Generation]:
        if self._batches:
            drawn = _Batch(self, chunk).decode()
        else:
            drawn = [self._alone(request, chunk) for request in chunk.requests]
        return [
            self.responses.generation(request, tokens, rules=chunk.rules, logprob=logprob)
            for request, (tokens, logprob) in zip(chunk.requests, drawn, strict=True)
        ]

    def _alone(self, request: SampleRequest, chunk: SampleChunk) -> tuple[list[int], float]:
        """One sample's tokens and log-probability, with whatever cache the model has."""
        stream = self.responses.stream(request, chunk)
        ids = torch.tensor([request.prompt], device=self.model.device)
        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=chunk.sampling.max_gen_toks,
                eos_token_id=sorted(self.responses.eos),
                pad_token_id=0,
            ),
            logits_processor=LogitsProcessorList([DrawOne(stream)]),
        )
        return stream.tokens, stream.logprob

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Any:
        """One forward pass, with the logits of the last position only if the model allows that."""
        extras = dict(self._extras)
        if self._positions:
            extras["position_ids"] = positions
        return self.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extras
        )


def _has_selectable_cache(model: Any) -> bool:
    """Whether rows of the model's cache can be selected: see `_Batch`."""
    with torch.inference_mode():
        ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        cache = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
    layers = getattr(cache, "layers", ())
    return bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers)


def continuous_if_possible(engine: HfEngine, in_flight: int) -> Engine:
    """Continuous batching of the engine's model, or the engine itself with a line in the log."""
    try:
        from worker.inference.continuous import ContinuousEngine

        return ContinuousEngine(engine.model, engine.responses, in_flight=in_flight)
    except (ImportError, NotImplementedError) as error:  # another version of Transformers
        _log.warning("no continuous batching: %s; chunks are generated one by one", error)
        return engine


class _Batch:
    """One batch that is being decoded. Ended rows are removed once they are half of the batch."""

    def __init__(self, engine: HfEngine, chunk: SampleChunk) -> None:
        self.engine = engine
        requests = chunk.requests
        self.sampling = sampling = chunk.sampling
        self.watch = engine.responses.stop_watch(chunk.rules)
        self.device = engine.model.device
        self.count = len(requests)
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        where = {prompt: i for i, prompt in enumerate(prompts)}
        self.owner = torch.tensor([where[r.prompt] for r in requests], device=self.device)
        self.ids, self.mask = self._padded(prompts)
        length = sampling.max_gen_toks
        self.streams = torch.stack([uniforms(r.seed, length) for r in requests]).to(self.device)
        self.tokens = torch.zeros(self.count, length, dtype=torch.long, device=self.device)
        self.logprobs = torch.zeros(self.count, dtype=torch.float64, device=self.device)
        self.lengths = torch.full((self.count,), length, device=self.device)
        self.eos = torch.tensor(sorted(engine.responses.eos), device=self.device)

    def _padded(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Prompts padded on the left: ids and mask, int64 [prompts, longest]."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=self.device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return ids, mask

    def decode(self) -> list[tuple[list[int], float]]:
        """Every row's tokens, its end token included, and their summed log-probability."""
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        out = self.engine.forward(self.ids, self.mask, positions, None)
        cache = out.past_key_values
        cache.batch_select_indices(self.owner)
        logits = out.logits[:, -1][self.owner]
        mask, position = self.mask[self.owner], positions[self.owner, -1:]
        alive = torch.arange(self.count, device=self.device)
        seen = self._nothing_seen(logits)
        for step in range(self.sampling.max_gen_toks):
            token = self._draw(step, alive, logits, seen)
            self._end_at_stop_strings(step, alive)
            running = self.lengths[alive] > step + 1
            if step + 1 == self.sampling.max_gen_toks or not bool(running.any()):
                break
            if int(running.sum()) * 2 <= len(alive):
                alive, token, mask = alive[running], token[running], mask[running]
                position = position[running]
                seen = None if seen is None else seen[running]
                cache.batch_select_indices(running.nonzero()[:, 0])
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=-1)
            position = position + 1
            out = self.engine.forward(token[:, None], mask, position, cache)
            cache, logits = out.past_key_values, out.logits[:, -1]
        rows = zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        drawn = [tokens[:length] for tokens, length in rows]
        return list(zip(drawn, self.logprobs.tolist(), strict=True))

    def _draw(self, step: int, alive: Tensor, logits: Tensor, seen: Tensor | None) -> Tensor:
        token, logprob = draw(logits, self.streams[alive, step], self.sampling, seen)
        self.tokens[alive, step] = token
        before = self.lengths[alive] > step
        self.logprobs[alive] += logprob.double() * before
        ended = torch.isin(token, self.eos) & before
        self.lengths[alive[ended]] = step + 1
        if seen is not None:
            seen.scatter_(1, token[:, None], True)
        return token

    def _end_at_stop_strings(self, step: int, alive: Tensor) -> None:
        """End the rows whose tokens have reached a stop string."""
        if self.watch is None or (step + 1) % STOP_INTERVAL:
            return
        for row in alive[self.lengths[alive] > step + 1].tolist():
            if self.watch(self.tokens[row, : step + 1].tolist()):
                self.lengths[row] = step + 1

    def _nothing_seen(self, logits: Tensor) -> Tensor | None:
        if not self.sampling.presence_penalty:
            return None
        return torch.zeros_like(logits, dtype=torch.bool)
