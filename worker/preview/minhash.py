"""Finds texts that are nearly the same, by MinHash and locality-sensitive hashing, with numpy.

Two texts are as similar as the share of their runs of five words that both have (Jaccard). Of each
text, 96 minima of hashed runs are kept; the share of equal minima estimates the similarity. Texts
are compared if six minima in a row are equal, which 99 % of pairs with a similarity of 0.8 have.

Source: Broder 1997, "On the resemblance and containment of documents"; Penedo et al. 2024,
arXiv:2406.17557 (FineWeb: runs of five words, 112 minima).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

WORDS = 5
SIMILARITY = 0.8
MINIMA, _BAND = 96, 6
_GROUP_BYTES = 1 << 20  # hashed at once; what a processor's cache holds
_PAIRS = 1 << 18  # compared at once

Signatures = NDArray[np.uint32]  # [texts, MINIMA]; all ones for a text that has no word

_random = np.random.default_rng(20240607)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BASE_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_WORD_FACTORS = _random.integers(1, 1 << 63, WORDS, dtype=np.uint64) * 2 + 1
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_FACTORS = _random.integers(1, 1 << 31, MINIMA, dtype=np.uint32) * 2 + 1
_TERMS = _random.integers(0, 1 << 32, MINIMA, dtype=np.uint32)
_BAND_FACTORS = _random.integers(1, 1 << 63, _BAND, dtype=np.uint64) * 2 + 1

# 0: between words; 1: in a word; 2: begins a character of three or four bytes in UTF-8. These are
# words of their own, because Chinese, Japanese and Thai put no spaces between words.
_KINDS = np.zeros(256, dtype=np.uint8)
_KINDS[[byte for byte in range(128) if chr(byte).isalnum()]] = 1
_KINDS[128:224] = 1
_KINDS[224:] = 2


def sign(texts: Sequence[str]) -> Signatures:
    """The minima of each text."""
    signatures = np.full((len(texts), MINIMA), 0xFFFFFFFF, dtype=np.uint32)
    for start, group in _groups([text.lower().encode() for text in texts]):
        _sign_group(group, signatures[start : start + len(group)])
    return signatures


def find_similar(signatures: Signatures) -> NDArray[np.int64]:
    """Pairs of indices [pairs, 2] of similar texts, the earlier first, sorted by the later.

    In a group of texts with a band in common, each is compared with the first and the one before
    it, so the number of comparisons stays proportional to the number of texts.
    """
    count = len(signatures)
    has_words = ~(signatures == 0xFFFFFFFF).all(axis=1)
    candidates = [np.empty(0, dtype=np.int64)]
    for band in range(0, MINIMA, _BAND):
        keys = (signatures[:, band : band + _BAND].astype(np.uint64) * _BAND_FACTORS).sum(axis=1)
        first, second = _neighbours(keys, np.flatnonzero(has_words))
        candidates.append(np.unique(second * count + first))
    pairs = np.unique(np.concatenate(candidates))
    later, earlier = np.divmod(pairs, count)
    kept = similarity(signatures, earlier, later) >= SIMILARITY
    return np.stack([earlier[kept], later[kept]], axis=1)


def similarity(
    signatures: Signatures, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The estimated similarity of each pair of texts."""
    parts = [
        (signatures[first[at : at + _PAIRS]] == signatures[second[at : at + _PAIRS]]).mean(axis=1)
        for at in range(0, len(first), _PAIRS)
    ]
    return np.concatenate([np.empty(0), *parts])


def _neighbours(
    keys: NDArray[np.uint64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each row with an equal key before it, paired with the first and the previous such row."""
    order = rows[np.argsort(keys[rows], kind="stable")]
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    begins = np.ones(len(order), dtype=bool)
    begins[same] = False
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    return np.concatenate([first[same], order[same - 1]]), np.concatenate([order[same]] * 2)


def _groups(texts: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Texts of about `_GROUP_BYTES` together, with the index of the first."""
    start = size = 0
    for at, text in enumerate(texts):
        size += len(text)
        if size >= _GROUP_BYTES:
            yield start, texts[start : at + 1]
            start, size = at + 1, 0
    if start < len(texts):
        yield start, texts[start:]


def _sign_group(texts: Sequence[bytes], out: Signatures) -> None:
    hashes, text_of = _hash_tokens(texts)
    if not len(hashes):
        return
    # Four zeros follow the words of each text, so that its last words begin runs too.
    at = np.arange(len(hashes)) + (WORDS - 1) * text_of
    padded = np.zeros(at[-1] + WORDS, dtype=np.uint64)
    padded[at] = hashes
    runs = np.zeros(len(hashes), dtype=np.uint64)
    for word, factor in enumerate(_WORD_FACTORS):
        runs += padded[at + word] * factor
    runs ^= runs >> np.uint64(32)
    short = (runs * _MIX >> np.uint64(32)).astype(np.uint32)
    starts = np.flatnonzero(np.diff(text_of, prepend=-1))
    named = text_of[starts]
    for minimum, (factor, term) in enumerate(zip(_FACTORS, _TERMS, strict=True)):
        out[named, minimum] = np.minimum.reduceat(short * factor + term, starts)


def _hash_tokens(texts: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hash of every word, and the index of its text.

    With sums of bytes times powers of a base, the hash of any span is a difference of two sums,
    moved to the same power.
    """
    data = np.frombuffer(b"".join(b" " + text for text in texts) + b" ", dtype=np.uint8)
    kinds = _KINDS[data]
    in_word, lead = kinds > 0, kinds == 2
    begins = np.flatnonzero(in_word[1:] & (~in_word[:-1] | lead[1:])) + 1
    ends = np.flatnonzero(in_word[:-1] & (~in_word[1:] | lead[1:])) + 1
    powers = np.full(len(data), _BASE)
    powers[0] = 1
    np.cumprod(powers, out=powers)
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum((data.astype(np.uint64) + 1) * powers, out=sums[1:])
    inverse = np.full(len(data), _BASE_INVERSE)
    inverse[0] = 1
    np.cumprod(inverse, out=inverse)
    offsets = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])
    text_of = np.searchsorted(offsets, begins, side="right") - 1
    return (sums[ends] - sums[begins]) * inverse[begins], text_of
