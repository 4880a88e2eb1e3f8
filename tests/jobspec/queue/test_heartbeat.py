"""Heartbeats, silence and reaping, on a clock that only the tests move."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from jobspec.errors import ClaimLost, JobspecError
from jobspec.queue.claim import Claim
from jobspec.queue.heartbeat import (
    Heartbeat,
    HeartbeatWriter,
    SilenceMonitor,
    Watched,
    new_worker_id,
    parse_heartbeat,
    parse_record,
)
from jobspec.queue.queue import Queue
from jobspec.records.attempt import End, Result
from jobspec.records.base import Reason, State
from jobspec.records.worker import WorkerRecord
from jobspec.storage import fs
from jobspec.storage.layout import WORKER_PATTERN, RootPaths
from tests.support.faulty_os import fails_with, faulty
from tests.support.queues import V, W, entries
from tests.support.specs import score_spec

LEASE_S, POLL_S = 150.0, 15.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Queue:
    return Queue.create(tmp_path / "root", clock=clock)


def claimed(queue: Queue, worker: str = W, name: str = "job") -> Claim:
    queue.enqueue(score_spec(name))
    queue.heartbeat(worker)
    claim = queue.claim(worker)
    assert claim is not None
    queue.heartbeat(worker, job=claim.job)
    return claim


def reap_for(queue: Queue, clock: Clock, seconds: float, each=lambda: None) -> list[str]:
    """Reap every POLL_S for `seconds`; `each` is called in between."""
    reaped = queue.reap()
    end = clock.now + seconds
    while clock.now < end:
        clock.now += POLL_S
        each()
        reaped += queue.reap()
    return reaped


def test_worker_ids_are_unique_and_fit_their_pattern() -> None:
    ids = {new_worker_id("Node-1.Cluster.EDU", "slurm", "4711_3", "x" * 100) for _ in range(100)}
    assert len(ids) == 100
    assert all(WORKER_PATTERN.fullmatch(each) for each in ids)
    assert WORKER_PATTERN.fullmatch(new_worker_id(""))


def test_a_heartbeat_is_one_rename_and_can_be_parsed(tmp_path: Path) -> None:
    root = RootPaths(tmp_path)
    root.workers.mkdir(parents=True)
    writer = HeartbeatWriter(root, W)
    writer.send(None)
    with faulty(-1, fails_with(0)) as calls:
        writer.send("job-0123456789")
    assert calls.count == 1
    (name,) = fs.list_dir(root.workers)
    heartbeat = parse_heartbeat(name)
    assert heartbeat is not None and (heartbeat.worker, heartbeat.job) == (W, "job-0123456789")
    assert heartbeat.name == name


@pytest.mark.parametrize(
    "name", [f"{W}.json", f"{W}.drain", f"{W}.1", f"{W}.x.idle", f"{W}.1.other", "a.b.1.idle", ".x"]
)
def test_other_names_are_no_heartbeats(name: str) -> None:
    assert parse_heartbeat(name) is None


def test_names_of_worker_records_are_recognized() -> None:
    assert parse_record(f"{W}.json") == W
    assert all(parse_record(name) is None for name in (W, f"{W}.1.idle", "Not.An.Id.json"))


def test_silence_counts_from_the_moment_it_reaches_the_limit() -> None:
    monitor = SilenceMonitor()
    for now in (0.0, 15.0):
        monitor.observe([Watched(W)], [Heartbeat(W, 1, None)], (now, now), cap_s=30.0)
    assert monitor.silent_workers(15.0) == {W}
    assert monitor.silent_workers(15.1) == set()


def test_the_time_that_a_read_takes_does_not_count_as_silence() -> None:
    """The heartbeat may have been sent at any time until the listing that first shows it ended."""
    monitor = SilenceMonitor()
    for read in ((0.0, 6.0), (15.0, 18.0)):
        monitor.observe([Watched(W)], [Heartbeat(W, 1, None)], read, cap_s=30.0)
    assert monitor.silent_s(Watched(W)) == 9.0
    monitor.observe([Watched(W)], [Heartbeat(W, 2, None)], (30.0, 35.0), cap_s=30.0)
    assert monitor.silent_s(Watched(W)) == 0.0


def test_a_heartbeat_after_a_lost_reply_is_a_new_one(queue: Queue) -> None:
    """The rename happened, but its caller saw an error: the same name again would be no news."""
    queue.heartbeat(W)
    seen = [fs.list_dir(queue.paths.workers)]

    def happens(name: str, args: object, call: Callable[[], object]) -> None:
        call()
        raise OSError(errno.EIO, "no reply")

    for _ in range(2):
        with faulty(0, happens, only=frozenset({"rename"})), pytest.raises(OSError):
            queue.heartbeat(W)
        seen.append(fs.list_dir(queue.paths.workers))
    queue.heartbeat(W)
    seen.append(fs.list_dir(queue.paths.workers))
    assert len({name for names in seen for name in names}) == len(seen)  # one file, always renamed


def test_a_heartbeat_whose_file_was_deleted_is_written_again(queue: Queue) -> None:
    queue.heartbeat(W)
    for path in queue.paths.workers.iterdir():
        path.unlink()
    queue.heartbeat(W)
    assert [seen.worker for seen in queue.workers()] == [W]


def test_a_heartbeat_needs_no_free_space(queue: Queue) -> None:
    queue.heartbeat(W, WorkerRecord(worker=W, note="before"))
    before = {seen.worker for seen in queue.workers()}
    for call in ("write", "open", "mkdir"):
        with faulty(0, fails_with(errno.ENOSPC), only=frozenset({call})):
            queue.heartbeat(W, WorkerRecord(worker=W, note="after"))
    (seen,) = queue.workers()
    assert {seen.worker} == before and seen.record.note in ("before", "after")


def test_a_silent_worker_is_reaped_after_a_lease_and_not_before(queue: Queue, clock: Clock) -> None:
    claim = claimed(queue)
    assert reap_for(queue, clock, LEASE_S - POLL_S) == []
    clock.now += POLL_S
    assert queue.reap() == [claim.job]
    job = queue.job(claim.job)
    assert (job.state, job.attempt, job.reason) == ("pending", 2, Reason.LOST)
    assert claim.held() is False


def test_reap_accepts_another_lease(queue: Queue, clock: Clock) -> None:
    claim = claimed(queue)
    reaped = queue.reap(4 * POLL_S)
    for _ in range(4):
        assert reaped == []
        clock.now += POLL_S
        reaped = queue.reap(4 * POLL_S)
    assert reaped == [claim.job]


def test_a_worker_that_sends_heartbeats_is_never_reaped(queue: Queue, clock: Clock) -> None:
    claim = claimed(queue)
    other = Queue(queue.paths.root)

    def send() -> None:
        other.heartbeat(W, job=claim.job)

    assert reap_for(queue, clock, 20 * LEASE_S, send) == []
    assert claim.held() is True


def test_a_heartbeat_for_another_job_does_not_keep_a_claim(queue: Queue, clock: Clock) -> None:
    """A worker that forgot its claim, or a new process with an old worker id."""
    claim = claimed(queue)
    reaped = reap_for(queue, clock, LEASE_S, lambda: queue.heartbeat(W))
    assert reaped == [claim.job]


def test_a_worker_that_never_sent_a_heartbeat_is_reaped(queue: Queue, clock: Clock) -> None:
    queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    assert reap_for(queue, clock, LEASE_S) == [claim.job]


def test_one_late_heartbeat_restarts_the_count(queue: Queue, clock: Clock) -> None:
    claim = claimed(queue)
    reap_for(queue, clock, LEASE_S - POLL_S)
    queue.heartbeat(W, job=claim.job)
    assert reap_for(queue, clock, LEASE_S - POLL_S) == []
    clock.now += POLL_S
    assert queue.reap() == [claim.job]


def test_nobody_is_reaped_when_all_readers_were_frozen(queue: Queue, clock: Clock) -> None:
    """The filesystem's master stops for an hour: no heartbeats, no reads. Then it is back."""
    claim = claimed(queue)
    assert reap_for(queue, clock, 4 * POLL_S) == []
    clock.now += 3600
    assert queue.reap() == []
    queue.heartbeat(W, job=claim.job)
    assert reap_for(queue, clock, LEASE_S - POLL_S) == []
    assert claim.held() is True


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_failed_reads_do_not_count_as_silence(queue: Queue, clock: Clock, number: int) -> None:
    claim = claimed(queue)
    assert queue.reap() == []
    for _ in range(100):
        clock.now += POLL_S
        with (
            faulty(0, fails_with(number), only=frozenset({"listdir"})),
            pytest.raises(OSError),
        ):
            queue.reap()
    assert queue.reap() == []
    assert claim.held() is True


def test_a_missing_workers_directory_does_not_count_as_silence(queue: Queue, clock: Clock) -> None:
    claimed(queue)
    queue.reap()
    queue.paths.workers.rename(queue.paths.root / "unmounted")
    for _ in range(100):
        clock.now += POLL_S
        with pytest.raises(OSError):
            queue.reap()


def test_a_single_gap_never_uses_up_a_lease(queue: Queue, clock: Clock) -> None:
    claim = claimed(queue)
    for lease_s in (1.0, 10.0, LEASE_S):
        fresh = Queue(queue.paths.root, clock=clock)
        assert fresh.reap(lease_s) == []
        clock.now += 1e6
        assert fresh.reap(lease_s) == []
    assert claim.held() is True


def test_a_clock_that_steps_back_does_not_count_as_silence(queue: Queue, clock: Clock) -> None:
    claimed(queue)
    queue.reap()
    clock.now -= 1e6
    assert queue.reap() == []
    assert queue.workers()[0].silent_s == 0


def test_a_named_worker_can_be_reaped_at_once(queue: Queue) -> None:
    mine, theirs = claimed(queue, W, "a"), claimed(queue, V, "b")
    assert queue.reap(worker=W, now=True) == [mine.job]
    assert theirs.held() is True
    for arguments in ({"now": True}, {"worker": W}):
        with pytest.raises(JobspecError):
            queue.reap(**arguments)


def test_a_job_claimed_again_by_the_worker_that_lost_it_starts_from_zero(
    queue: Queue, clock: Clock
) -> None:
    """A claim whose reply is lost has no heartbeats; a second reader sees both attempts in turn."""
    job = queue.enqueue(score_spec())
    assert queue.claim(W) is not None
    reader = Queue(queue.paths.root, clock=clock)
    reader.reap(2 * LEASE_S)
    assert reap_for(queue, clock, LEASE_S, lambda: reader.reap(2 * LEASE_S)) == [job.id]
    assert queue.claim(W) is not None
    assert reader.reap() == []
    assert [(now.state, now.attempt) for now in queue.jobs()] == [("running", 2)]


def test_of_two_reapers_one_wins(queue: Queue, clock: Clock) -> None:
    claim = claimed(queue)
    others = [Queue(queue.paths.root, clock=clock) for _ in range(3)]
    reaped = list[str]()
    for _ in range(int(LEASE_S / POLL_S) + 3):
        for other in others:
            reaped += other.reap()
        clock.now += POLL_S
    assert reaped == [claim.job]
    assert entries(queue) == {claim.job: ["pending"]}
    assert queue.job(claim.job).attempt == 2


def test_a_slow_worker_cannot_commit_after_it_was_reaped(queue: Queue, clock: Clock) -> None:
    claim = claimed(queue)
    reap_for(queue, clock, LEASE_S)
    queue.heartbeat(W, job=claim.job)
    with pytest.raises(ClaimLost):
        claim.finish("succeeded")
    assert queue.job(claim.job).attempt == 2


def test_a_worker_that_died_between_its_end_and_its_commit_has_succeeded(
    queue: Queue, clock: Clock
) -> None:
    claim = claimed(queue)
    fs.publish(claim.dir.result, b'{"job": "x", "attempt": 1}')
    claim.end(End(reason=Reason.SUCCEEDED))
    reap_for(queue, clock, LEASE_S)
    job = queue.job(claim.job)
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert job.paths.result.is_symlink()
    claim.finish("succeeded", Result(job=claim.job, attempt=1))  # late, but with the same result


def test_an_unreadable_end_defers_only_that_job(queue: Queue, clock: Clock) -> None:
    first, second = claimed(queue, W, "a"), claimed(queue, V, "b")
    reap_for(queue, clock, LEASE_S - POLL_S)
    clock.now += POLL_S
    with faulty(0, fails_with(errno.EIO), only=frozenset({"open"})):
        reaped = queue.reap()
    assert len(reaped) == 1
    assert sorted(reaped + queue.reap()) == sorted([first.job, second.job])


def test_long_dead_idle_workers_are_forgotten_and_live_ones_kept(
    queue: Queue, clock: Clock
) -> None:
    queue.heartbeat(W, WorkerRecord(worker=W))
    queue.heartbeat(V, WorkerRecord(worker=V))
    reap_for(queue, clock, 5 * LEASE_S, lambda: queue.heartbeat(V))
    assert [seen.worker for seen in queue.workers()] == [V]
    queue.heartbeat(W)  # it was only stopped, and is listed again
    assert [seen.worker for seen in queue.workers()] == [W, V]


def test_an_idle_worker_makes_few_filesystem_calls(queue: Queue, clock: Clock) -> None:
    """One poll each 30 s and four heartbeats a minute, with 50 pending jobs that do not fit."""
    pending, done = queue.paths.state(State.PENDING), queue.paths.state(State.SUCCEEDED)
    for number in range(50):
        queue.enqueue(score_spec(f"job{number}"))
    for number in range(1000):
        (done / f"949-20261122T124057123456Z-job-{number:010x}.1.json").touch()
    assert len(fs.list_dir(pending)) == 50
    queue.heartbeat(W)
    assert queue.claim(W, fits=lambda spec: False) is None
    with faulty(-1, fails_with(0)) as calls:
        for _ in range(2):
            assert queue.claim(W, fits=lambda spec: False) is None
            queue.reap()
        for _ in range(4):
            queue.heartbeat(W)
    assert calls.count <= 30


def test_the_latest_of_several_heartbeats_of_a_worker_counts(queue: Queue) -> None:
    """If a rename is reported as failed although it happened, the old name is left behind."""
    queue.heartbeat(W)
    (name,) = fs.list_dir(queue.paths.workers)
    heartbeat = parse_heartbeat(name)
    assert heartbeat is not None
    for later in (3, 2, 1):
        left = Heartbeat(W, heartbeat.counter + later, f"job{later}-0123456789")
        (queue.paths.workers / left.name).touch()
    (seen,) = queue.workers()
    assert seen.job == "job3-0123456789"


def test_silence_is_counted_for_each_key_separately() -> None:
    monitor = SilenceMonitor()
    keys = [Watched(W, "a-0123456789", 1), Watched(V)]
    heartbeats = [Heartbeat(W, 1, "a-0123456789"), Heartbeat(V, 1, None)]
    monitor.observe(keys, heartbeats, (0, 0), cap_s=30)
    monitor.observe(keys, [*heartbeats, Heartbeat(V, 2, None)], (10, 10), cap_s=30)
    assert monitor.silent_s(keys[0]) == 10
    assert monitor.silent_s(keys[1]) == 0
    monitor.observe(keys[:1], heartbeats, (100, 100), cap_s=30)
    assert monitor.silent_s(keys[0]) == 40
    monitor.observe(keys, [], (110, 110), cap_s=30)
    assert monitor.silent_s(keys[1]) == 0  # forgotten in between, so it starts again
