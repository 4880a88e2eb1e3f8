"""What an engine is asked for: samples, in chunks that never change."""

from __future__ import annotations

import hashlib

import msgspec


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling settings; every field is passed to the engine explicitly."""

    max_gen_toks: int
    temperature: float
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sample to generate: its number, its prompt and its seed."""

    question: str
    sample: int
    seed: int
    prompt: tuple[int, ...]


class SampleChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A fixed group of requests: the unit of work and of storage; a kill loses open ones only."""

    benchmark: str
    index: int
    sampling: Sampling
    requests: tuple[SampleRequest, ...]


def sample_seed(job: str, benchmark: str, question: str, sample: int) -> int:
    """A sample's seed: 63 bits of SHA-256 over (job, benchmark, question, sample)."""
    name = "\0".join((job, benchmark, question, str(sample)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
