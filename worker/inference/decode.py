"""Turns token ids into a Generation, in the same way for every engine."""

from __future__ import annotations

from typing import Any

from jobspec.records.evaluation import Generation
from worker.inference.requests import SampleRequest


class Responses:
    """Decodes the responses of one model.

    Args:
        tokenizer: the model's.
        end_tokens: the model's, one or several, which join the tokenizer's own.
    """

    def __init__(self, tokenizer: Any, end_tokens: int | list[int] | None) -> None:
        self._tokenizer = tokenizer
        ids = end_tokens if isinstance(end_tokens, list) else [end_tokens]
        self.eos = frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)

    def generation(
        self,
        request: SampleRequest,
        tokens: list[int],
        *,
        logprob: float | None = None,
        stopped: bool = False,
    ) -> Generation:
        """The Generation of a request. The text keeps special tokens, but not the end token.

        It ended by itself if its last token is an end token, or if the engine says `stopped`.
        """
        last = bool(tokens) and tokens[-1] in self.eos
        ended = last or stopped
        text = self._tokenizer.decode(
            tokens[:-1] if last else tokens,
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return Generation(
            question=request.question,
            sample=request.sample,
            seed=request.seed,
            text=text,
            tokens=len(tokens),
            finish="stop" if ended else "length",
            logprob=None if logprob is None else round(logprob, 4),
        )
