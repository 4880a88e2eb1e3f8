"""Transformers' continuous batching: a GPU generates many samples at a time, of any length.

Samples join and leave the batch at every step, and their keys and values are stored in pages, so
that memory holds what has been generated rather than the longest possible responses.

Transformers draws all tokens from one random stream (`ContinuousBatchingConfig.seed`). Here every
sample draws from its own, by the same function as in our own loop (`sampling.draw`), so that its
text depends on its own seed. As with vLLM, the other samples of the batch change the last bits of
the logits, which may change a sample where two tokens are about equally likely.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.logits_process import LogitsProcessorList

from jobspec.records.evaluation import Generation
from worker.inference.decode import Responses
from worker.inference.in_flight import ChunksInFlight
from worker.inference.requests import SampleChunk, Sampling
from worker.inference.streams import SampleStream, draw_next
from worker.kernels import paged_attention

_log = logging.getLogger(__name__)
_PAGE_TOKENS = 256
_MEMORY_FRAC = 0.85  # of the memory that the weights leave; sorting the logits needs the rest
_LOOK_EVERY_S = 1.0
_TRIAL_TOKENS = 8
_TRIAL_CACHE_TOKENS = 16 * _PAGE_TOKENS
# How far below the likeliest token a greedy token may be, as a part of the logits' standard
# deviation: rounding to bfloat16 changes less, and a key that is missing changes more.
_TRIAL_TOLERANCE = 0.2


class ContinuousEngine:
    """Generates with one loaded model.

    Args:
        model: of Transformers, on its device.
        responses: decodes its tokens.
        in_flight: how many samples to hold at a time.
        cache_tokens: size of the cache; by default it fills the GPU's memory.

    Raises:
        NotImplementedError: continuous batching can't run this model.
    """

    method = "continuous batching"

    def __init__(
        self, model: Any, responses: Responses, *, in_flight: int, cache_tokens: int | None = None
    ) -> None:
        self.model = model
        self._responses = responses
        self._in_flight = in_flight
        self._cache_tokens = cache_tokens
        self._plain = model.config._attn_implementation
        self._attention = paged_attention.PagedAttention(model)
        self._try()

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        """Hold `in_flight` samples at a time; yield a chunk when its last sample has ended.

        Raises:
            MemoryError, RuntimeError: Transformers failed.
        """
        held = ChunksInFlight(chunks, self._in_flight)
        with self._session(self._cache_tokens) as session:
            while True:
                for name, request, chunk in held.admit():
                    stream = self._responses.stream(request, chunk)
                    session.submit(name, request.prompt, stream)
                if not held.samples:
                    return
                name, tokens, logprob = session.next_result()
                request, rules = held.request(name)
                row = self._responses.generation(request, tokens, rules=rules, logprob=logprob)
                yield from held.finish(name, row)

    def close(self) -> None:
        """Does nothing: the cache is freed at the end of `run`, the rest when the process ends."""

    @contextmanager
    def _session(self, cache_tokens: int | None) -> Iterator[_Session]:
        settings = ContinuousBatchingConfig(
            page_size=_PAGE_TOKENS,
            num_blocks=cache_tokens and -(-cache_tokens // _PAGE_TOKENS),
            max_batch_tokens=cache_tokens,
            max_requests_per_batch=self._in_flight,
            max_memory_percent=_MEMORY_FRAC,
            auto_switch_to_flash=False,
            # Drawing a token reads results back to the CPU, which a graph can't contain.
            use_cuda_graph=False,
            use_async_batching=False,
            max_blocks_per_request=0,  # only Transformers' own kernels read pages directly
        )
        greedy = GenerationConfig(
            do_sample=False, eos_token_id=sorted(self._responses.eos), pad_token_id=0
        )
        self.model.config._attn_implementation = paged_attention.NAME
        try:
            manager = self.model.init_continuous_batching(greedy, settings)
            session = _Session(manager)
            manager.start()
            try:
                yield session
            finally:
                manager.stop(hard_stop=True)  # waits for its thread and frees the cache
                manager.destroy()
        finally:
            self.model.config._attn_implementation = self._plain

    def _try(self) -> None:
        """Generate a little, and compare it with what the model answers by itself.

        Models whose layers carry a state, or whose attention has options of its own, fail here.
        """
        text = self.model.config.get_text_config()
        sampling = Sampling(max_gen_toks=_TRIAL_TOKENS, temperature=0.0)
        prompts = {
            str(length): tuple((31 * i + 7) % text.vocab_size for i in range(length))
            for length in (3, 40)
        }
        results: dict[str, list[int]] = {}
        try:
            with self._session(_TRIAL_CACHE_TOKENS) as session:
                for name, prompt in prompts.items():
                    session.submit(name, prompt, SampleStream(0, sampling))
                while len(results) < len(prompts):
                    name, tokens, _ = session.next_result()
                    results[name] = tokens
        except Exception as error:  # Transformers refuses a model in many ways
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise NotImplementedError(f"Transformers can't run it: {reason}") from error
        if not self._attention.calls or self._attention.calls % text.num_hidden_layers:
            raise NotImplementedError("not all of its layers use Transformers' attention interface")
        for name, tokens in results.items():
            if not self._likeliest(prompts[name], tokens):
                raise NotImplementedError("it generates other tokens than the model by itself")

    @torch.inference_mode()
    def _likeliest(self, prompt: tuple[int, ...], tokens: list[int]) -> bool:
        """Whether each token is the likeliest one, except for rounding."""
        ids = torch.tensor([[*prompt, *tokens]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        behind = (logits.amax(-1) - chosen) / logits.std(-1)
        return bool((behind < _TRIAL_TOLERANCE).all())


class _Session:
    """A running manager of Transformers, and the random streams of its samples."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._streams: dict[str, SampleStream] = {}
        # The batch is created by the manager's thread after it has started, with these processors.
        processors = manager.logit_processor
        processors.logits_processor = LogitsProcessorList([_Draw(self._streams)])
        processors.tensors_required, processors.do_processing = 1, True

    def submit(self, name: str, prompt: tuple[int, ...], stream: SampleStream) -> None:
        self._streams[name] = stream
        self._manager.add_request(
            list(prompt), request_id=name, max_new_tokens=stream.sampling.max_gen_toks
        )

    def next_result(self) -> tuple[str, list[int], float]:
        """The next sample that has ended: its id, tokens, and summed log-probability."""
        while True:
            result = self._manager.get_result(timeout=_LOOK_EVERY_S)
            if result is not None and result.error is not None:
                raise _error(result.error)
            if result is not None and result.is_finished():
                stream = self._streams.pop(result.request_id)
                tokens = stream.tokens if stream.stopped else result.generated_tokens
                return result.request_id, tokens, stream.logprob
            if result is None and not self._manager.is_running():
                fatal = self._manager.background_thread_status.fatal_error
                raise _error(str(fatal or "continuous batching has stopped")) from fatal


def _error(message: str) -> Exception:
    kind = MemoryError if "out of memory" in message.lower() else RuntimeError
    return kind(f"continuous batching: {message}")


class _Draw(ContinuousBatchingLogitsProcessor):
    """Draws each sample's next token from its own stream, and makes it the likeliest one.

    Transformers calls `prepare_tensor_args` and then the object itself once for every step.
    """

    def __init__(self, streams: dict[str, SampleStream]) -> None:
        self.supported_kwargs, self.ignored_kwargs = {}, ()
        self._streams = streams
        self._batch: list[SampleStream] = []

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """Note whose tokens are drawn next. The tensor that Transformers passes on is not used."""
        names = [request.state.request_id for request in requests_with_new_token]
        self._batch = [self._streams[name] for name in names]
        return torch.zeros(len(names), dtype=torch.int32)

    def __call__(self, scores: Any, tensor_arg: Tensor) -> Any:
        """`scores` is float32 [rows, vocabulary]; rows beyond those of the batch are not used."""
        draw_next(scores, self._batch)
        return scores
