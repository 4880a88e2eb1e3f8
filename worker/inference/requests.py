"""What an engine is asked for: samples, in chunks that never change."""

from __future__ import annotations

import msgspec


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling settings; every field is passed to the engine explicitly."""

    max_gen_toks: int
    temperature: float
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None


class ResponseRules(msgspec.Struct, frozen=True, kw_only=True):
    """Where the reasoning of a response ends, and at which strings the answer after it stops.

    Attributes:
        think_end_token: the tag that ends reasoning; None if it is not marked.
        opens_think: the prompt opens a think block.
        stops: strings that end the answer; inside a think block they do nothing.
    """

    think_end_token: str | None = None
    opens_think: bool = False
    stops: tuple[str, ...] = ()


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sample to generate: its number, its prompt and its seed."""

    question: str
    sample: int
    seed: int
    prompt: tuple[int, ...]


class SampleChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A fixed group of requests: the unit of work and of storage; a kill loses open ones only.

    Attributes:
        round: with a stop rule, the number of the sample that each question has in this chunk.
    """

    benchmark: str
    index: int
    round: int = 0
    sampling: Sampling
    rules: ResponseRules = ResponseRules()
    requests: tuple[SampleRequest, ...]
