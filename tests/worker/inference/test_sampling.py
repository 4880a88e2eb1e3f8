"""Sampling tokens with their probability, from one random stream for each sample."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support.engines import SAMPLING
from worker.inference.requests import Sampling
from worker.inference.sampling import draw, uniforms


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
