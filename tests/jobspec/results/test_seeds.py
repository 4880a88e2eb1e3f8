"""Differences over training seeds: which jobs belong together, and Welch's t-test."""

from __future__ import annotations

import random

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.results import pairing, seeds, table
from jobspec.results.pairing import Compared
from jobspec.spec.schema import JobSpec
from tests.support.queues import fail, succeed
from tests.support.scores import scored_job
from tests.support.specs import train_spec


def seeded(name: str, seed: int, rate: float = 1e-5) -> JobSpec:
    train = {"seed": seed, "learning_rate": rate}
    return train_spec("nowhere/base", "rows.jsonl", name=name, train=train)


def metrics(value: float) -> dict[str, float | None]:
    return {"bench/aime24/avg_at_32": value}


def test_jobs_that_differ_in_the_seed_only_belong_together(queue: Queue) -> None:
    first = succeed(queue, seeded("a1", 1), metrics(0.5))
    succeed(queue, seeded("a2", 2), metrics(0.6))
    succeed(queue, msgspec.structs.replace(seeded("a2again", 2), notes="again"), metrics(0.6))
    succeed(queue, seeded("b1", 1, rate=2e-5), metrics(0.7))
    fail(queue, seeded("a3", 3), "no GPU")
    found = seeds.siblings(first, queue.jobs())
    assert sorted(job.spec.train.seed for job in found if job.spec.train) == [1, 2]
    other = queue.job("b1")
    row = Compared(benchmark="aime24", differs=[], difference=None)
    (seeded_row,) = pairing.add_seeds([row], first, other, queue.jobs())
    assert seeded_row.over_seeds is None, "B has one seed only"
    succeed(queue, seeded("b2", 2, rate=2e-5), metrics(0.8))
    (seeded_row,) = pairing.add_seeds([row], first, other, queue.jobs())
    assert seeded_row.over_seeds is not None
    assert seeded_row.over_seeds.mean == pytest.approx(0.2)


def test_welchs_test() -> None:
    # SciPy's ttest_ind(…, equal_var=False): t = 3.3831, df = 4.6218, p = 0.0221512.
    found = seeds.difference_over_seeds([0.52, 0.48, 0.55], [0.61, 0.57, 0.66, 0.6])
    assert found is not None and (found.a_seeds, found.b_seeds) == (3, 4)
    assert found.mean == pytest.approx(0.0933333, abs=1e-6)
    assert found.p_value == pytest.approx(0.0221512, abs=5e-8)
    assert (found.low, found.high) == pytest.approx((0.0206338, 0.1660329), abs=5e-8)
    assert seeds.difference_over_seeds([0.5], [0.6, 0.7]) is None
    alike = seeds.difference_over_seeds([0.5, 0.5], [0.5, 0.5])
    assert alike is not None and (alike.p_value, alike.seeds_needed) == (1.0, None)


def test_the_interval_over_seeds_has_its_coverage() -> None:
    draw, covered = random.Random(5), 0
    for _ in range(200):
        a = [draw.gauss(0.5, 0.02) for _ in range(4)]
        b = [draw.gauss(0.53, 0.04) for _ in range(3)]
        found = seeds.difference_over_seeds(a, b)
        assert found is not None
        covered += found.low <= 0.03 <= found.high
    assert 180 <= covered <= 200


def test_results_against_a_job(queue: Queue) -> None:
    half, right = [True, False, True, False], [True] * 4
    before = scored_job(queue, "before", {"aime24": {"q1": half, "q2": half}})
    after = scored_job(queue, "after", {"aime24": {"q1": right, "q2": half}})
    found = pairing.differences_from(after, before)
    assert found["aime24"].mean == pytest.approx(0.25) and found["aime24"].samples_needed
    other = scored_job(queue, "other", {"aime24": {"q1": half}}, temperature=1.0)
    assert pairing.differences_from(other, before) == {}
    waits = queue.enqueue(seeded("waits", 1))
    assert pairing.differences_from(waits, before) == {}
    assert [row.against for row in table.rows(queue.jobs())] == [{}, {}, {}]
