"""Sorts what a profiler recorded by kind of work: matrix products, attention, norms and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PRODUCTS, ATTENTION, NORMS = "matrix products", "attention", "norms"
OPTIMIZER, COMMUNICATION = "optimizer", "communication"
POINTWISE, IDLE = "pointwise and copies", "idle"
KINDS = (PRODUCTS, ATTENTION, POINTWISE, NORMS, OPTIMIZER, COMMUNICATION, IDLE)

# The first that matches names the kind: names of kernels on a GPU, of operators on a CPU.
_PATTERNS = (
    (COMMUNICATION, r"nccl|gloo|all_?reduce|all_?gather|reduce_?scatter|c10d|broadcast_"),
    (OPTIMIZER, r"adam|multi_tensor|foreach|lamb|l2norm"),
    (ATTENTION, r"flash|fmha|attention|sdpa|varlen"),
    (NORMS, r"rms_?norm|layer_?norm"),
    (
        PRODUCTS,
        r"gemm|gemv|cutlass|nvjet|xmma|wgmma|cublas|matmul|::(addmm|mm|bmm|baddbmm|linear)$",
    ),
)
_COMPILED = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS]


@dataclass(frozen=True)
class Work:
    """A kernel, or an operator without those that it called; times in seconds."""

    name: str
    began: float
    seconds: float


def kind_of(name: str) -> str:
    """The kind of work that a kernel or an operator does."""
    return next((kind for kind, pattern in _COMPILED if pattern.search(name)), POINTWISE)


def seconds_by_kind(work: Iterable[Work], wall_s: float, *, overlapping: bool) -> dict[str, float]:
    """Seconds of each kind, and of `idle`, when nothing ran.

    Args:
        work: all that ran within `wall_s`.
        overlapping: whether several may have run at the same time, as kernels of a GPU do. Then
            all kinds together may take longer than `wall_s`.
    """
    done = list(work)
    found = dict.fromkeys(KINDS, 0.0)
    for each in done:
        found[kind_of(each.name)] += each.seconds
    busy = _covered_s(done) if overlapping else sum(each.seconds for each in done)
    found[IDLE] = max(0.0, wall_s - busy)
    return found


def longest(work: Iterable[Work], count: int = 12) -> list[tuple[str, str, float]]:
    """The kernels or operators that took most of the time: kind, name, seconds."""
    totals: dict[str, float] = {}
    for each in work:
        totals[each.name] = totals.get(each.name, 0.0) + each.seconds
    first = sorted(totals.items(), key=lambda item: -item[1])[:count]
    return [(kind_of(name), name, seconds) for name, seconds in first]


def _covered_s(work: list[Work]) -> float:
    """The time during which at least one ran."""
    covered, until = 0.0, float("-inf")
    for each in sorted(work, key=lambda each: each.began):
        end = each.began + each.seconds
        covered += max(0.0, end - max(each.began, until))
        until = max(until, end)
    return covered
