"""Turns token ids into a Generation, in the same way for every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from jobspec.records.evaluation import Generation
from worker.inference.requests import ResponseRules, SampleChunk, SampleRequest
from worker.inference.streams import SampleStream
from worker.thinking import answer_text, think_tags, uses_channels

# Stop strings are looked for when this number of tokens was drawn, so that every engine, whether it
# draws one token at a time or several, ends a sample after the same token.
STOP_INTERVAL = 8
_MORE_TOKENS = 8  # around the tokens of a stop string: a character may be several tokens


class _Thinking(NamedTuple):
    """What the tokens say about thinking, and the character at which the answer begins."""

    state: Literal["none", "open", "closed"] | None
    start: int


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
        self._single: dict[str, int | None] = {}

    def generation(
        self,
        request: SampleRequest,
        tokens: list[int],
        *,
        rules: ResponseRules | None = None,
        logprob: float | None = None,
        stopped: bool = False,
    ) -> Generation:
        """The Generation of a request. The text keeps special tokens, but not the end token.

        It ended by itself if its last token is an end token, if a stop string is in the answer, or
        if the engine says `stopped`. The text ends before the stop string.
        """
        rules = rules or ResponseRules()
        last = bool(tokens) and tokens[-1] in self.eos
        shown = tokens[:-1] if last else tokens
        text = self._decode(shown)
        thinking = self._thinking(shown, text, rules)
        cut = _stop_position(text, thinking, rules)
        return Generation(
            question=request.question,
            sample=request.sample,
            seed=request.seed,
            text=text if cut is None else text[:cut],
            tokens=len(tokens),
            finish="stop" if last or stopped or cut is not None else "length",
            logprob=None if logprob is None else round(logprob, 4),
            thinking=thinking.state,
            answer_start=thinking.start,
        )

    def stop_watch(self, rules: ResponseRules) -> Callable[[Sequence[int]], bool] | None:
        """Whether the tokens so far have reached a stop string; None if there is nothing to watch.

        The function is cheap: it decodes all tokens only where the last ones hold a stop string.
        """
        if not rules.stops:
            return None
        longest = max(len(stop.encode()) for stop in rules.stops)
        window = longest + STOP_INTERVAL + _MORE_TOKENS

        def watch(tokens: Sequence[int]) -> bool:
            if len(tokens) % STOP_INTERVAL:
                return False
            end = self._decode(tokens[-window:])
            if not any(stop in end for stop in rules.stops):
                return False
            text = self._decode(tokens)
            return _stop_position(text, self._thinking(tokens, text, rules), rules) is not None

        return watch

    def stream(self, request: SampleRequest, chunk: SampleChunk) -> SampleStream:
        """The random stream of a request, which ends at the chunk's stop strings."""
        watch, end = self.stop_watch(chunk.rules), min(self.eos, default=None)
        return SampleStream(request.seed, chunk.sampling, watch=watch, end_token=end)

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _thinking(self, tokens: Sequence[int], text: str, rules: ResponseRules) -> _Thinking:
        """Where thinking ends, if the tags are single tokens and the model used these tokens."""
        tags = think_tags(rules.think_end_token)
        unknown = _Thinking(None, 0)
        if tags is None or uses_channels(text):
            return unknown
        close = self._token(tags.close)
        opening = self._token(tags.open) if tags.open_is_derived else None
        if close is None or (opening is None and tags.open_is_derived):
            return unknown
        inside, closed = rules.opens_think, 0
        for place, token in enumerate(tokens, start=1):
            if token == opening:
                inside = True
            elif token == close and (inside or not closed):
                inside, closed = False, place
        if not closed and tags.close in text:
            return unknown  # the tag is written in other tokens
        if inside:
            return _Thinking("open", 0)
        if not closed:
            return _Thinking("none", 0)
        return _Thinking("closed", len(self._decode(tokens[:closed])))

    def _token(self, tag: str) -> int | None:
        """The token that a tag is; None if it is several."""
        if tag not in self._single:
            ids = self._tokenizer(tag, add_special_tokens=False)["input_ids"]
            self._single[tag] = ids[0] if len(ids) == 1 else None
        return self._single[tag]


def _stop_position(text: str, thinking: _Thinking, rules: ResponseRules) -> int | None:
    """The character at which the answer reaches a stop string; None if it does not."""
    if not rules.stops or thinking.state == "open":
        return None
    start = thinking.start
    if thinking.state is None:
        answer = answer_text(text, think_tags(rules.think_end_token), opened=rules.opens_think)
        if answer is None:
            return None
        start = text.rfind(answer)
    places = [at for at in (text.find(stop, start) for stop in rules.stops) if at >= 0]
    return min(places, default=None)
