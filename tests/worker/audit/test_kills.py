"""Where audited trainings are killed."""

from __future__ import annotations

from worker.audit import kills
from worker.audit.kills import POINTS, draw

EVERY, STEPS, EPOCH = 3, 15, 5


def drawn(seed: int, count: int = 4, ranks: int = 2) -> tuple[kills.Kill, ...]:
    return draw(count, seed=seed, ranks=ranks, steps=STEPS, save_every=EVERY, steps_per_epoch=EPOCH)


def test_a_seed_names_the_same_places() -> None:
    assert drawn(7) == drawn(7)
    assert len({drawn(seed) for seed in range(50)}) > 40


def test_each_kill_is_in_a_later_part_of_the_training_than_the_one_before() -> None:
    for seed in range(200):
        parts = [-(-kill.step // EVERY) for kill in drawn(seed)]
        assert parts == sorted(set(parts)) == [1, 2, 3, 4]
        assert [kill.attempt for kill in drawn(seed)] == [1, 2, 3, 4]


def test_a_kill_is_at_a_step_that_comes_to_its_point() -> None:
    seen = set[str]()
    for kill in (each for seed in range(200) for each in drawn(seed)):
        seen.add(kill.point)
        if kill.point == kills.IN_WEIGHTS:
            assert kill.step % EPOCH == 0
        elif kill.point != kills.IN_STEP:
            assert kill.step % EVERY == 0
        if kill.point in (kills.BEFORE_COMPLETE, kills.AFTER_SAVE, kills.IN_WEIGHTS):
            assert kill.rank == 0, "only the first rank gets there"
        assert kill.rank in (0, 1)
    assert seen == {point for kind in POINTS for point in kind}


def test_three_kills_are_of_three_kinds_unless_no_epoch_ends_there() -> None:
    for seed in range(100):
        kinds = [next(i for i, kind in enumerate(POINTS) if kill.point in kind)
                 for kill in drawn(seed, count=3)]  # fmt: skip
        assert len(set(kinds)) >= 2
