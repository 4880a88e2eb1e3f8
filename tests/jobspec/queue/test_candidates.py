"""Candidates: claims in a deep queue reuse one listing, and new jobs are still seen soon."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobspec.queue.candidates import Candidates
from jobspec.queue.entries import Entry
from jobspec.records.base import State
from jobspec.spec.identity import canonical, job_id
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths, Ticket
from tests.support.faulty_os import fails_with, faulty
from tests.support.paths import fast_dir
from tests.support.specs import score_spec

MANY = 300


@dataclass
class Pending:
    """A directory of pending names, its candidates, and a clock that only tests move."""

    root: RootPaths
    now_s: float = 1000.0
    listings: int = 0
    candidates: Candidates = field(init=False)

    def __post_init__(self) -> None:
        self.root.state(State.PENDING).mkdir(parents=True)
        self.candidates = Candidates(self.root, owned=True, clock=lambda: self.now_s)
        self.candidates.share.order([])  # once a minute: the users, which is not counted here

    def add(self, number: int, rank: int = 949) -> Ticket:
        # The file is empty. Such an entry is offered too, because the claim repairs or ends it.
        ticket = Ticket(rank, f"20261122T{number:012d}Z", f"job-{number:010x}")
        (self.root.state(State.PENDING) / ticket.name).touch()
        return ticket

    def offered(self) -> Iterator[Entry]:
        return self.candidates.select(lambda spec: True, reuse=True)

    def claim(self) -> Ticket:
        """Do as a claim does: move the first entry that is offered."""
        with faulty(-1, fails_with(0), only=frozenset({"listdir"})) as counted:
            entry = next(self.offered())
        self.listings += counted.count
        entry.path(self.root).unlink()
        return entry.ticket


@pytest.fixture
def pending() -> Iterator[Pending]:
    with fast_dir() as folder:
        yield Pending(RootPaths(Path(folder)))


def test_claims_in_a_deep_queue_reuse_a_listing(pending: Pending) -> None:
    made = [pending.add(number) for number in range(MANY)]
    claimed = [pending.claim() for _ in range(MANY)]
    assert pending.listings == 1
    assert claimed == made  # oldest first


def test_a_worker_without_rivals_takes_the_oldest_job_first(pending: Pending) -> None:
    made = [pending.add(number) for number in range(20)]
    urgent = [pending.add(number, rank=1) for number in range(20, 30)]
    assert [pending.claim() for _ in range(30)] == urgent + made


def test_after_a_lost_race_claims_start_among_the_first_few_for_a_minute(pending: Pending) -> None:
    made = [pending.add(number) for number in range(200)]
    offered = pending.offered()
    next(offered)
    next(offered)  # the first was lost
    firsts = {made.index(next(pending.offered()).ticket) for _ in range(60)}
    assert len(firsts) > 1 and max(firsts) < 8
    pending.now_s += 60.0
    assert {made.index(next(pending.offered()).ticket) for _ in range(20)} == {0}


def test_a_short_listing_is_made_for_every_claim(pending: Pending) -> None:
    for number in range(10):
        pending.add(number)
    first = pending.add(10, rank=1)
    assert pending.claim() == first
    second = pending.add(11, rank=1)
    assert pending.claim() == second
    assert pending.listings == 2


def test_new_jobs_are_claimed_after_two_seconds_or_when_the_listing_is_used_up(
    pending: Pending,
) -> None:
    for number in range(MANY):
        pending.add(number)
    pending.claim()
    urgent = pending.add(MANY, rank=1)
    assert pending.claim() != urgent
    pending.now_s += 2.0
    assert pending.claim() == urgent
    last = pending.add(MANY + 1)
    assert [pending.claim() for _ in range(MANY - 1)][-1] == last
    assert pending.listings == 3


def test_an_entry_refused_for_now_is_asked_about_again(pending: Pending) -> None:
    made = [pending.add(number) for number in range(MANY)]
    later = set(made[3:20])
    seen: list[Ticket] = []
    for _ in range(MANY - len(later)):
        offered = pending.candidates.select(
            lambda spec: True, lambda ticket: ticket not in later, reuse=True
        )
        entry = next(offered)
        entry.path(pending.root).unlink()
        seen.append(entry.ticket)
    none_now = pending.candidates.select(lambda spec: True, lambda ticket: False, reuse=True)
    assert next(none_now, None) is None  # the loop ends
    assert sorted(seen + sorted(later)) == made
    assert {pending.claim() for _ in later} == later


def test_many_misses_on_a_listing_lead_to_a_new_one(pending: Pending) -> None:
    for number in range(MANY):
        pending.add(number)
    pending.claim()
    left = sorted(path.name for path in pending.root.state(State.PENDING).iterdir())
    for name in left[:200]:  # claimed by others
        (pending.root.state(State.PENDING) / name).unlink()
    tries = 0
    for entry in pending.offered():
        tries += 1
        if entry.path(pending.root).exists():
            break
    assert tries <= 33


def test_has_work_never_uses_an_old_listing(pending: Pending) -> None:
    for number in range(MANY):
        pending.add(number)
    pending.claim()
    for path in pending.root.state(State.PENDING).iterdir():
        path.unlink()
    assert next(pending.candidates.select(lambda spec: True), None) is None


def test_has_work_does_not_change_the_next_claim(pending: Pending) -> None:
    for number in range(MANY):
        pending.add(number)
    urgent = pending.add(MANY, rank=1)
    seen = next(pending.candidates.select(lambda spec: True))
    assert pending.claim() == seen.ticket == urgent


def test_a_lost_race_doubles_the_window(pending: Pending) -> None:
    made = [pending.add(number).name for number in range(40)]

    def second() -> int:
        offered = pending.offered()
        next(offered)
        return made.index(next(offered).name)

    seconds = {second() for _ in range(60)}
    assert 9 <= max(seconds) <= 16  # half of these 16 are not among the first 8


def test_a_failing_filesystem_is_not_mistaken_for_an_unreadable_entry(
    pending: Pending,
) -> None:
    pending.add(1)
    with (
        faulty(0, fails_with(errno.EIO), only=frozenset({"open"})),
        pytest.raises(OSError, match="Input/output error"),
    ):
        next(pending.offered())
    assert next(pending.offered(), None) is not None


def test_an_entry_that_comes_back_is_checked_again(pending: Pending) -> None:
    """As after a claim on a full disk, which leaves an entry with the same name."""
    data = canonical(score_spec("x"))
    ticket = Ticket(949, "20261122T000000000001Z", job_id("x", data))
    entry, asked = pending.root.state(State.PENDING) / ticket.name, list[JobSpec]()

    def look() -> None:
        assert not list(pending.candidates.select(lambda spec: bool(asked.append(spec))))

    for _ in range(2):
        entry.write_bytes(data)
        look()
        look()
        entry.unlink()
        look()
    assert len(asked) == 2
