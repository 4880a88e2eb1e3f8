"""Near duplicates by MinHash, against the exact similarity of the texts."""

from __future__ import annotations

import random

import numpy as np
import pytest

from worker.preview import minhash

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "re") for b in range(100)]


def text(seed: int, count: int = 400) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def edited(words: str, changes: int, seed: int = 0) -> str:
    parts = words.split()
    for at in random.Random(seed).sample(range(len(parts)), changes):
        parts[at] = "changed"
    return " ".join(parts)


def jaccard(one: str, other: str) -> float:
    def runs(words: list[str]) -> set[tuple[str, ...]]:
        padded = [*words, *[""] * (minhash.WORDS - 1)]
        return {tuple(padded[at : at + minhash.WORDS]) for at in range(len(words))}

    first, second = runs(one.split()), runs(other.split())
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("changes", [0, 2, 8, 20, 60])
def test_the_share_of_equal_minima_estimates_the_similarity(changes: int) -> None:
    pairs = [(text(n), edited(text(n), changes, n)) for n in range(50)]
    signatures = minhash.sign([one for pair in pairs for one in pair])
    at = np.arange(0, 100, 2)
    found = minhash.similarity(signatures, at, at + 1)
    exact = np.array([jaccard(*pair) for pair in pairs])
    assert abs(found.mean() - exact.mean()) < 0.03
    assert abs(found - exact).max() < 0.2


def test_similar_texts_are_found_and_others_are_not() -> None:
    texts = [text(n) for n in range(200)]
    texts += [edited(texts[n], 6) for n in range(0, 40, 2)]  # similarity 0.86
    texts += [edited(texts[n], 60) for n in range(1, 41, 2)]  # 0.3
    texts += [edited(texts[n], 20) for n in range(40, 80)]  # 0.6
    pairs = {tuple(pair) for pair in minhash.find_similar(minhash.sign(texts)).tolist()}
    wanted = {(n, 200 + n // 2) for n in range(0, 40, 2)}
    assert pairs <= wanted
    assert len(pairs) >= 19


def test_texts_do_not_depend_on_those_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of texts are hashed at once: a text's place must not matter."""
    monkeypatch.setattr(minhash, "_GROUP_BYTES", 10_000)
    texts = [text(n, count) for n, count in enumerate([3, 5, 400, 9000, 1, 20_000, 7])]
    together = minhash.sign(texts)
    alone = np.concatenate([minhash.sign([one]) for one in texts])
    assert (together == alone).all()
    assert (minhash.sign(texts[::-1])[::-1] == together).all()


@pytest.mark.parametrize(
    ("one", "other", "similar"),
    [
        ("A short row.", "a SHORT row", True),
        ("A short row.", "A long row.", False),
        ("这是一个关于数学推理的例子，请逐步思考并给出最终答案。" * 3 + "谢谢", "", False),
        (
            "这是一个关于数学推理的例子，请逐步思考。",
            "这是一个关于数学推理的例子，请逐步 思考。",
            True,
        ),
        (
            "这是一个关于数学推理的例子，请逐步思考。",
            "那么请写一首关于春天与河流的短诗吧，不要太长。",
            False,
        ),
        ("", "", False),
        ("... !!!", "?", False),
    ],
)
def test_short_texts_and_texts_without_spaces(one: str, other: str, similar: bool) -> None:
    pairs = minhash.find_similar(minhash.sign([text(1), one, other]))
    assert ([1, 2] in pairs.tolist()) is similar


def test_many_equal_texts_are_compared_in_proportion_to_their_number() -> None:
    signatures = minhash.sign([text(1, 20)] * 5000)
    pairs = minhash.find_similar(signatures)
    assert set(pairs[:, 1].tolist()) == set(range(1, 5000))
    assert len(pairs) < 2 * 5000
