"""The queue's transitions, one process at a time: what each does, refuses and guarantees."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from queuekit import (
    entries,
    fails_with,
    fast_dir,
    faulty,
    hidden,
    killed_at,
    loses_reply,
    score_spec,
)

from jobspec import fs, record, take
from jobspec.errors import (
    ClaimLost,
    DiskFull,
    JobNotFound,
    JobspecError,
    RootError,
    TransitionRefused,
)
from jobspec.paths import parse_entry
from jobspec.queue import Queue
from jobspec.record import End, Enqueued, Reason, Result, State, WorkerRecord
from jobspec.spec import canonical, digest

W, V = "node1-00000000000000aa", "node2-00000000000000bb"


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue.create(tmp_path / "root")


def stems(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


# Enqueue


def test_enqueue_writes_the_canonical_bytes_everywhere(queue: Queue) -> None:
    spec = score_spec("Qwen3 8B")
    job = queue.enqueue(spec, priority=60)
    assert (job.state, job.attempt, job.priority, job.already) == ("pending", 1, 60, False)
    assert job.id.startswith("qwen3-8b-")
    assert job.paths.spec.read_bytes() == canonical(spec)
    assert stat.S_IMODE(job.paths.spec.stat().st_mode) == 0o444
    entry = next(queue.paths.state(State.PENDING).iterdir())
    assert entry.read_bytes() == canonical(spec)
    parsed = parse_entry(entry.name)
    assert parsed is not None and parsed[0].job == job.id
    facts = record.read(job.paths.enqueue, Enqueued)
    assert facts is not None and facts.priority == 60
    assert facts.enqueued_at == job.enqueued_at
    assert not job.paths.ticket.exists()
    assert hidden(queue.paths.root) == []


def test_enqueueing_the_same_spec_again_changes_nothing(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    before = entries(queue)
    again = queue.enqueue(score_spec(), priority=99)
    assert again.already and again.id == job.id and again.priority == 50
    assert entries(queue) == before == {job.id: ["pending"]}
    assert hidden(queue.paths.root) == []


def test_enqueue_of_an_ended_job_says_where_it_is(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    queue.cancel(job.id)
    again = queue.enqueue(score_spec())
    assert again.already and again.state is State.CANCELLED


def test_enqueue_finishes_a_publication_that_was_cut_in_half(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    entry = next(queue.paths.state(State.PENDING).iterdir())
    entry.rename(job.paths.ticket)
    again = queue.enqueue(score_spec())
    assert again.already and again.state is State.PENDING
    assert stems(queue.paths.state(State.PENDING)) == [entry.name]


def test_enqueue_rebuilds_an_entry_that_was_purged(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    next(queue.paths.state(State.PENDING).iterdir()).unlink()
    again = queue.enqueue(score_spec())
    assert again.already and entries(queue) == {job.id: ["pending"]}


@pytest.mark.parametrize("priority", [-1, 1000])
def test_a_priority_that_no_name_holds_is_refused(queue: Queue, priority: int) -> None:
    with pytest.raises(JobspecError, match="priority"):
        queue.enqueue(score_spec(), priority=priority)
    assert entries(queue) == {}


@pytest.mark.parametrize("call", ["mkdir", "write", "fsync"])
def test_enqueue_on_a_full_disk_leaves_nothing(queue: Queue, call: str) -> None:
    with faulty(0, fails_with(errno.ENOSPC), only=frozenset({call})), pytest.raises(DiskFull):
        queue.enqueue(score_spec())
    assert entries(queue) == {}
    assert stems(queue.paths.jobs) == []
    assert hidden(queue.paths.root) == []
    assert not queue.enqueue(score_spec()).already


# Claim


def test_claims_go_by_priority(queue: Queue) -> None:
    low = queue.enqueue(score_spec("low"), priority=10)
    high = queue.enqueue(score_spec("high"), priority=90)
    order = [queue.claim(W), queue.claim(W), queue.claim(W)]
    assert [claim and claim.job for claim in order] == [high.id, low.id, None]


def test_a_claim_is_a_moved_entry_and_a_directory(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    assert (claim.job, claim.attempt, claim.worker) == (job.id, 1, W)
    assert claim.spec == score_spec()
    assert claim.dir.dir == job.paths.attempts / "1"
    assert claim.dir.dir.is_dir()
    assert stems(queue.paths.state(State.RUNNING)) == [claim.entry.name]
    assert claim.held() is True
    assert queue.job(job.id).worker == W


def test_what_does_not_fit_is_asked_once_and_left(queue: Queue) -> None:
    big, small = queue.enqueue(score_spec("big")), queue.enqueue(score_spec("small"))
    asked: list[str] = []

    def fits(spec) -> bool:
        asked.append(spec.name)
        return spec.name == "small"

    for _ in range(3):
        claim = queue.claim(W, fits)
        if claim is not None:
            assert claim.job == small.id
    assert asked.count("big") == 1
    assert queue.job(big.id).state is State.PENDING
    queue.prioritize(big.id, 51)
    queue.claim(W, fits)
    assert asked.count("big") == 2


def test_work_remains_while_something_fits_or_runs(queue: Queue) -> None:
    assert not queue.has_work()
    queue.enqueue(score_spec())
    assert queue.has_work() and not queue.has_work(lambda spec: False)
    claim = Queue(queue.paths.root).claim(W)
    assert claim is not None
    assert queue.has_work(lambda spec: False)
    claim.finish("succeeded")
    assert not queue.has_work()


def test_the_package_offers_what_programs_need_and_nothing_heavy(queue: Queue) -> None:
    import jobspec

    assert jobspec.Queue is Queue
    assert jobspec.JobSpec is type(score_spec())
    with pytest.raises(AttributeError, match="Nothing"):
        _ = jobspec.Nothing


def test_idle_workers_spread_over_the_first_few(tmp_path: Path) -> None:
    queue = Queue.create(tmp_path / "root")
    for number in range(20):
        queue.enqueue(score_spec(f"j{number:02d}"))
    first = set[str]()
    while len(first) < 5:  # each start is one of 8, all equally likely
        claim = queue.claim(W)
        assert claim is not None
        assert claim.spec.name < "j08"
        first.add(claim.spec.name)
        fs.move_once(
            claim.entry.path(queue.paths),
            queue.paths.state(State.PENDING) / claim.entry.ticket.name,
        )
        for path in sorted(claim.dir.dir.iterdir()):
            path.unlink()
        claim.dir.dir.rmdir()


def test_a_hold_stops_claims_and_nothing_else(queue: Queue) -> None:
    queue.enqueue(score_spec("a"))
    claim = queue.claim(W)
    assert claim is not None
    queue.enqueue(score_spec("b"))
    queue.hold("quota", by="me")
    held = queue.on_hold()
    assert held is not None and (held.reason, held.by) == ("quota", "me")
    assert queue.claim(W) is None
    claim.finish("succeeded")
    queue.release()
    queue.release()
    assert queue.on_hold() is None
    assert queue.claim(W) is not None


def test_a_hold_on_a_full_disk_holds_without_words(queue: Queue) -> None:
    queue.enqueue(score_spec())
    with faulty(0, fails_with(errno.ENOSPC), only=frozenset({"write"})):
        queue.hold("disk full")
    assert queue.on_hold() is not None
    assert queue.claim(W) is None


def test_a_winner_told_enoent_finds_its_claim(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    with faulty(0, loses_reply, only=frozenset({"rename"})):
        claim = queue.claim(W)
    assert claim is not None and claim.job == job.id
    assert claim.dir.dir.is_dir()


def test_two_processes_under_one_worker_id_do_not_both_win(queue: Queue) -> None:
    queue.enqueue(score_spec())
    twin = Queue(queue.paths.root)
    first = queue.claim(W)
    assert first is not None
    # What the twin sees if the rename it makes comes second: ENOENT, and "its own" target there.
    second = first.entry
    pending = queue.paths.state(State.PENDING) / second.ticket.name
    assert not pending.exists()
    assert fs.move_once(pending, second.path(queue.paths))
    assert take.settle(queue.paths, second, twin._token, owned=True) is None
    assert first.held() is True
    first.finish("succeeded")


def test_an_unsure_claim_is_found_by_the_next_call(queue: Queue) -> None:
    job = queue.enqueue(score_spec())

    def moved_but_failed(name: str, args: object, call) -> None:
        call()
        raise OSError(errno.EIO, "no reply at all")

    with (
        faulty(0, moved_but_failed, only=frozenset({"rename"})),
        pytest.raises(OSError, match="no reply"),
    ):
        queue.claim(W)
    claim = queue.claim(W)
    assert claim is not None and (claim.job, claim.attempt) == (job.id, 1)
    claim.finish("succeeded")
    assert entries(queue) == {job.id: ["succeeded"]}


def test_a_claim_on_a_full_disk_goes_back_as_it_was(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    with faulty(0, fails_with(errno.ENOSPC), only=frozenset({"write"})), pytest.raises(DiskFull):
        queue.claim(W)
    assert entries(queue) == {job.id: ["pending"]}
    claim = queue.claim(V)
    assert claim is not None and claim.attempt == 1


@pytest.mark.parametrize("worker", ["", "UPPER", "a/b", "..", "x" * 81, "a.b"])
def test_worker_ids_that_could_leave_their_directory_are_refused(queue: Queue, worker: str) -> None:
    queue.enqueue(score_spec())
    for call in (queue.claim, queue.heartbeat, queue.retire, queue.drain):
        with pytest.raises(JobspecError, match="no worker id"):
            call(worker)


@pytest.mark.parametrize("job", ["../../x", "job", "", "a/b-0123456789"])
def test_jobs_that_could_leave_their_directory_are_refused(queue: Queue, job: str) -> None:
    with pytest.raises(JobspecError):
        queue.heartbeat(W, job=job)
    for call in (queue.cancel, queue.retry):
        with pytest.raises(JobNotFound):
            call(job)


def test_names_that_are_not_ours_are_nobodys(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    pending = queue.paths.state(State.PENDING)
    real = stems(pending)[0]
    strays = [
        ".nfs000000000000001",
        "README",
        real.replace("949-", "٩٤٩-"),  # digits, but not ours
        real.replace(".1.json", ".0.json"),
        real.replace(".1.json", ".01.json"),
        real.replace(".1.json", f".1.{W}.json"),
    ]
    for name in strays:
        (pending / name).write_bytes(b"{}")
    assert [each.id for each in queue.jobs()] == [job.id]
    claim = queue.claim(W)
    assert claim is not None and claim.job == job.id
    assert queue.claim(W) is None
    assert stems(pending) == sorted(strays)


# Damage


@pytest.mark.parametrize("damage", [b"", b"{", b'{"name": "other"}'])
def test_a_damaged_ticket_is_restored_from_the_job(queue: Queue, damage: bytes) -> None:
    job = queue.enqueue(score_spec())
    next(queue.paths.state(State.PENDING).iterdir()).write_bytes(damage)
    claim = queue.claim(W)
    assert claim is not None and claim.spec == score_spec()
    assert claim.entry.path(queue.paths).read_bytes() == canonical(score_spec())
    assert job.paths.spec.read_bytes() == canonical(score_spec())


def test_an_edited_spec_is_set_aside_and_the_real_one_restored(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    job.paths.spec.chmod(0o644)
    job.paths.spec.write_bytes(canonical(score_spec(notes="edited")))
    claim = queue.claim(W)
    assert claim is not None and claim.spec == score_spec()
    assert job.paths.spec.read_bytes() == canonical(score_spec())
    edited = job.paths.dir / "spec.edited.json"
    assert edited.read_bytes() == canonical(score_spec(notes="edited"))


def test_a_purged_job_directory_is_remade_by_the_claim(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    for path in (job.paths.spec, job.paths.enqueue):
        path.unlink()
    job.paths.dir.rmdir()
    claim = queue.claim(W)
    assert claim is not None
    assert job.paths.spec.read_bytes() == canonical(score_spec())


def test_a_spec_damaged_everywhere_fails_as_corrupt(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    next(queue.paths.state(State.PENDING).iterdir()).write_bytes(b"")
    job.paths.spec.chmod(0o644)
    job.paths.spec.write_bytes(b"{")
    assert queue.claim(W) is None
    found = queue.job(job.id)
    assert (found.state, found.reason) == ("failed", Reason.CORRUPT)
    assert found.end is not None and found.end.hint
    with pytest.raises(JobspecError, match="damaged"):
        _ = found.spec


def test_a_later_versions_spec_is_left_pending_with_a_note(queue: Queue) -> None:
    queue.enqueue(score_spec("ours"))
    data = json.dumps({**json.loads(canonical(score_spec())), "schema_version": 2}).encode()
    job = f"theirs-{digest(data)}"
    name = stems(queue.paths.state(State.PENDING))[0]
    stamp = name[4:26]
    (queue.paths.state(State.PENDING) / f"900-{stamp}-{job}.1.json").write_bytes(data)
    claim = queue.claim(W)
    assert claim is not None and claim.spec.name == "ours"
    assert queue.claim(W) is None
    assert "schema_version" in queue.notes[job]
    assert queue.job(job).state is State.PENDING


def test_a_ticket_of_another_user_is_left_pending_with_a_note(queue: Queue, monkeypatch) -> None:
    job = queue.enqueue(score_spec())
    entry = next(queue.paths.state(State.PENDING).iterdir())
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    os.chown(entry, 12345, -1)
    assert queue.claim(W) is None
    assert "12345" in queue.notes[job.id]
    trusting = Queue(queue.paths.root, allow_group=True)
    assert trusting.claim(W) is not None


@pytest.mark.parametrize("what", ["link", "directory", "others' spec"])
def test_one_odd_entry_does_not_keep_a_worker_from_the_others(queue: Queue, what: str) -> None:
    odd = queue.enqueue(score_spec("odd"), priority=99)
    queue.enqueue(score_spec("sound"))
    entry = queue.paths.state(State.PENDING) / stems(queue.paths.state(State.PENDING))[0]
    if what == "others' spec":
        if os.geteuid() != 0:
            pytest.skip("needs root to give a file away")
        os.chown(odd.paths.spec, 12345, -1)
    else:
        entry.unlink()
        entry.symlink_to("/etc/hostname") if what == "link" else entry.mkdir()
    claims = [queue.claim(W), queue.claim(W)]
    names = {claim.spec.name for claim in claims if claim is not None}
    if what == "others' spec":  # its ticket is good, so the job's own copy is remade from that
        assert names == {"odd", "sound"}
        assert odd.paths.spec.stat().st_uid == os.geteuid()
    else:
        assert names == {"sound"}
        assert "left pending" in queue.notes[odd.id]


def test_the_longest_names_fit_a_file_system(queue: Queue) -> None:
    job = queue.enqueue(score_spec("x" * 100))
    worker = "w" * 80
    queue.heartbeat(worker)
    claim = queue.claim(worker)
    assert claim is not None and claim.job == job.id
    queue.heartbeat(worker, job=claim.job)
    longest = max(len(path.name) for path in queue.paths.queue.rglob("*"))
    assert 180 < longest < 240
    claim.finish("succeeded")


# Finish, requeue, fence


def test_finish_leaves_result_end_and_links(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.dir.final_model.mkdir()
    claim.finish("succeeded", Result(job=claim.job, attempt=1, metrics={"bench/x": 0.5}))
    found = queue.job(job.id)
    assert (found.state, found.reason) == ("succeeded", Reason.SUCCEEDED)
    assert found.end is not None and found.end.worker == W
    assert str(found.paths.result.readlink()) == "attempts/1/result.json"
    assert str(found.paths.final_model.readlink()) == "attempts/1/final_model"
    result = record.read(found.paths.result, Result)
    assert result is not None and result.metrics == {"bench/x": 0.5}
    assert claim.held() is False


def test_links_can_be_remade_by_anybody(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.finish("succeeded", {"metrics": {"a": 1.0}})
    job.paths.result.unlink()
    job.paths.result.symlink_to("nonsense")
    Queue(queue.paths.root).publish_derived(job.id)
    assert record.read(job.paths.result, Result) is not None


def test_finish_keeps_the_end_that_its_caller_wrote(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.end(End(reason=Reason.OOM, message="needs 90 GiB", hint="use ZeRO-3"))
    claim.finish("failed")
    found = queue.job(job.id)
    assert (found.state, found.reason) == ("failed", Reason.OOM)
    assert found.end is not None and found.end.message == "needs 90 GiB"


def test_a_commit_remakes_a_directory_that_a_purge_took(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    shutil.rmtree(claim.dir.dir)
    claim.finish("succeeded", {"metrics": {"a": 1.0}})
    assert record.read(job.paths.result, Result) is not None


def test_requeue_makes_the_next_attempt(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    assert claim.requeue("preempted") is State.PENDING
    found = queue.job(job.id)
    assert (found.state, found.attempt, found.reason) == ("pending", 2, Reason.PREEMPTED)
    again = queue.claim(V)
    assert again is not None and again.attempt == 2
    assert stems(job.paths.attempts) == ["1", "2"]
    assert claim.held() is False


@pytest.mark.parametrize("verb", ["finish", "requeue"])
def test_the_fence_a_stopped_attempt_that_goes_on_changes_nothing(queue: Queue, verb: str) -> None:
    """Attempt 1 is stopped between its last look and its commit; attempt 2 commits; 1 goes on."""
    job = queue.enqueue(score_spec())
    first = queue.claim(W)
    assert first is not None and first.held() is True
    first.dir.final_model.mkdir()
    queue.reap(worker=W, now=True)
    second = queue.claim(V)
    assert second is not None and second.attempt == 2
    second.dir.final_model.mkdir()
    second.finish("succeeded", {"metrics": {"a": 2.0}})
    before = {path: path.lstat().st_ino for path in queue.paths.root.rglob("*")}
    with pytest.raises(ClaimLost, match=job.id):
        if verb == "finish":
            first.finish("succeeded", {"metrics": {"a": 1.0}})
        else:
            first.requeue("walltime")
    after = {path: path.lstat().st_ino for path in queue.paths.root.rglob("*")}
    assert after == before  # not even a word in its own directory
    assert entries(queue) == {job.id: ["succeeded"]}
    assert str(job.paths.final_model.readlink()) == "attempts/2/final_model"
    assert json.loads(job.paths.result.read_bytes())["metrics"] == {"a": 2.0}


def test_a_cancelled_claim_is_gone_for_its_holder(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    queue.cancel(job.id)
    assert claim.held() is False
    with pytest.raises(ClaimLost):
        claim.finish("succeeded")
    assert queue.job(job.id).state is State.CANCELLED
    assert not job.paths.result.exists()


def test_a_commit_whose_reply_was_lost_is_a_commit(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.end(End(reason=Reason.SUCCEEDED))
    with faulty(0, loses_reply, only=frozenset({"rename"})):
        claim.finish("succeeded")
    assert entries(queue) == {job.id: ["succeeded"]}
    claim.finish("succeeded")  # and asking again changes nothing
    assert entries(queue) == {job.id: ["succeeded"]}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EPERM])
def test_an_error_is_not_taken_for_a_lost_claim(queue: Queue, number: int) -> None:
    queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    claim.end(End(reason=Reason.SUCCEEDED))
    for call in ("listdir", "lstat"):
        with faulty(0, fails_with(number), only=frozenset({call})) as fault:
            if call == "lstat":
                claim.entry.path(queue.paths).rename(queue.paths.root / "aside")
            assert claim.held() is None
            assert fault.fired
    (queue.paths.root / "aside").rename(claim.entry.path(queue.paths))
    with faulty(0, fails_with(number), only=frozenset({"rename"})), pytest.raises(OSError) as got:
        claim.finish("succeeded")
    assert got.value.errno == number
    assert claim.held() is True
    claim.finish("succeeded")


def test_a_vanished_running_directory_is_no_proof_of_a_lost_claim(queue: Queue) -> None:
    queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    running = queue.paths.state(State.RUNNING)
    running.rename(queue.paths.root / "unmounted")
    assert claim.held() is None
    with pytest.raises(OSError):
        claim.finish("succeeded")
    (queue.paths.root / "unmounted").rename(running)
    claim.finish("succeeded")


def test_a_claim_gone_from_a_listing_but_there_by_name_is_held(queue: Queue) -> None:
    queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None

    def misses(name: str, args: object, call: object) -> list[str]:
        return []

    with faulty(0, misses, only=frozenset({"listdir"})):
        assert claim.held() is True


# Cancel, retry, prioritize


def test_cancel_and_retry_give_back_a_pending_job(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    assert queue.cancel(job.id).state is State.CANCELLED
    assert queue.claim(W) is None
    back = queue.retry(job.id)
    assert (back.state, back.attempt) == ("pending", 2)
    claim = queue.claim(W)
    assert claim is not None and claim.attempt == 2


def test_transitions_that_do_not_exist_are_refused_in_words(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    with pytest.raises(TransitionRefused, match="is pending"):
        queue.retry(job.id)
    claim = queue.claim(W)
    assert claim is not None
    with pytest.raises(TransitionRefused, match="is running"):
        queue.prioritize(job.id, 1)
    claim.finish("succeeded")
    for call in (queue.cancel, queue.retry):
        with pytest.raises(TransitionRefused, match="is succeeded"):
            call(job.id)


def test_prioritize_renames_in_place(queue: Queue) -> None:
    first, second = queue.enqueue(score_spec("a")), queue.enqueue(score_spec("b"))
    assert queue.prioritize(second.id, 99).priority == 99
    assert [job.id for job in queue.jobs()] == [second.id, first.id]
    claim = queue.claim(W)
    assert claim is not None and claim.job == second.id


# Looking


def test_jobs_by_state_id_prefix_and_glob(queue: Queue) -> None:
    a1, a2 = queue.enqueue(score_spec("aa-one")), queue.enqueue(score_spec("aa-two"))
    b = queue.enqueue(score_spec("bb"))
    queue.cancel(b.id)
    assert {job.id for job in queue.jobs()} == {a1.id, a2.id, b.id}
    assert [job.id for job in queue.jobs("cancelled")] == [b.id]
    assert queue.job("aa-o").id == queue.job(a1.id).id == a1.id
    assert [job.id for job in queue.select(["aa-*", "aa-two"])] == [a1.id, a2.id]
    assert [job.id for job in queue.select([], "cancelled")] == [b.id]
    assert queue.select(["aa-*"], "cancelled") == []
    for selector in ("aa", "zz"):
        with pytest.raises(JobNotFound):
            queue.job(selector)
    with pytest.raises(JobNotFound):
        queue.select(["zz*"])


def test_of_two_sightings_of_one_job_the_later_wins(queue: Queue) -> None:
    """A job caught on the move can be seen twice."""
    job = queue.enqueue(score_spec())
    entry = next(queue.paths.state(State.PENDING).iterdir())
    running = queue.paths.state(State.RUNNING) / entry.name.replace(".json", f".{W}.json")
    running.write_bytes(entry.read_bytes())
    assert queue.job(job.id).state is State.RUNNING
    (queue.paths.state(State.PENDING) / entry.name.replace(".1.", ".2.")).write_bytes(b"")
    assert queue.job(job.id).attempt == 2


def test_a_job_that_moved_back_behind_the_readers_back_is_seen(queue: Queue, monkeypatch) -> None:
    job = queue.enqueue(score_spec())
    claim = queue.claim(W)
    assert claim is not None
    real, moves = fs.list_dir, [lambda: claim.requeue("preempted")]

    def list_then_move(path: Path) -> list[str]:
        names = real(path)
        if path.name == "pending" and moves:
            moves.pop()()  # between the reading of pending/ and that of running/
        return names

    monkeypatch.setattr(fs, "list_dir", list_then_move)
    assert [(each.id, each.attempt) for each in queue.jobs()] == [(job.id, 2)]


def test_ten_thousand_finished_jobs_are_listed_by_name_alone(queue: Queue) -> None:
    done = queue.paths.state(State.SUCCEEDED)
    for number in range(10_000):
        (done / f"949-20261122T124057123456Z-job-{number:010x}.1.json").touch()
    best = 1.0
    for _ in range(3):
        started = time.perf_counter()
        assert len(queue.jobs()) == 10_000
        best = min(best, time.perf_counter() - started)
    assert best < 0.3
    reads = frozenset({"open", "read", "stat", "lstat"})
    with faulty(0, fails_with(errno.EIO), only=reads) as fault:
        queue.jobs()
    assert not fault.fired


# Setting aside


def test_drain_is_a_mark_that_retire_removes(queue: Queue) -> None:
    queue.heartbeat(W, WorkerRecord(worker=W, host="node1"))
    queue.drain(W)
    assert queue.is_draining(W) and not queue.is_draining(V)
    seen = queue.workers()
    assert [(each.worker, each.record.host, each.draining) for each in seen] == [(W, "node1", True)]
    assert not queue.saw_drain(W)
    queue.reap()
    assert queue.saw_drain(W) and not queue.saw_drain(V)
    queue.retire(W)
    queue.reap()
    assert queue.workers() == [] and not queue.is_draining(W) and not queue.saw_drain(W)


def test_a_hold_is_looked_for_only_where_there_is_something_to_claim(queue: Queue) -> None:
    queue.enqueue(score_spec())
    queue.hold("maintenance")
    with faulty(0, fails_with(errno.EIO), only=frozenset({"lstat"})) as fault:
        assert queue.claim(W, fits=lambda spec: False) is None
    assert not fault.fired and not queue.was_held
    assert queue.claim(V) is None and not queue.was_held  # what fits nobody is remembered
    other = Queue(queue.paths.root)
    assert other.claim(V) is None and other.was_held
    other.release()
    assert other.claim(V) is not None and not other.was_held


def test_quarantine_lists_expires_and_clears(queue: Queue) -> None:
    assert queue.quarantine("node-3.cluster", "no CUDA", 60, by="node1")
    assert queue.quarantine("node4", "ECC", -1)
    marks = queue.quarantined()
    assert {host: mark.reason for host, mark in marks.items()} == {"node-3.cluster": "no CUDA"}
    assert queue.quarantined_host("node-3.cluster") == marks["node-3.cluster"]
    assert all(queue.quarantined_host(host) is None for host in ("node4", "node5", "../x"))
    queue.clear("node-3.cluster")
    assert queue.quarantined_host("node-3.cluster") is None
    assert queue.quarantined() == {}
    with pytest.raises(JobspecError, match="no host name"):
        queue.quarantine("../../etc", "x", 1)


def test_suspicions_never_set_aside_more_than_half_of_the_hosts(queue: Queue) -> None:
    for number in range(4):
        worker = f"w-{number:016x}"
        queue.heartbeat(worker, WorkerRecord(worker=worker, host=f"node{number}"))
    followed = [queue.quarantine(f"node{n}", "fast failure", 60, certain=False) for n in range(4)]
    assert followed == [True, True, False, False]
    assert queue.quarantine("node3", "no CUDA", 60)


def test_an_unreadable_quarantine_mark_counts(queue: Queue) -> None:
    (queue.paths.quarantine / "node9.json").write_bytes(b"")
    assert "node9" in queue.quarantined() and queue.quarantined_host("node9") is not None


# The root


def test_create_opens_what_is_there(tmp_path: Path) -> None:
    first = Queue.create(tmp_path / "root", heartbeat_s=1, lease_s=7)
    second = Queue.create(tmp_path / "root")
    assert (second.format.heartbeat_s, second.format.lease_s) == (1, 7)
    assert first.paths == second.paths


def test_a_root_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RootError, match="FORMAT") as caught:
        Queue(tmp_path / "nowhere")
    assert caught.value.hint and caught.value.file == str(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("text", ['{"layout": 2}', "{", ""])
def test_another_layout_is_refused(queue: Queue, text: str) -> None:
    queue.paths.format.write_text(text)
    with pytest.raises(RootError) as caught:
        Queue(queue.paths.root)
    assert caught.value.file == str(queue.paths.format) and caught.value.hint


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o775])
@pytest.mark.parametrize("which", ["root", "queue", "jobs", "queue/pending", "queue/workers"])
def test_directories_that_others_can_write_to_are_refused(
    queue: Queue, which: str, mode: int
) -> None:
    path = queue.paths.root if which == "root" else queue.paths.root / which
    path.chmod(mode)
    with pytest.raises(RootError, match="may write") as caught:
        Queue(queue.paths.root)
    assert caught.value.hint is not None and f"chmod {'g' if mode == 0o775 else 'o'}-w {path}" in (
        caught.value.hint
    )


def test_a_group_can_be_allowed(tmp_path: Path, monkeypatch) -> None:
    queue = Queue.create(tmp_path / "root", allow_group=True)
    job = queue.enqueue(score_spec())
    assert stat.S_IMODE(job.paths.dir.stat().st_mode) == 0o2775
    with pytest.raises(RootError, match="group"):
        Queue(tmp_path / "root")
    monkeypatch.setenv("JOBSPEC_ALLOW_GROUP", "1")
    Queue(tmp_path / "root")


def test_a_root_of_another_user_is_refused(queue: Queue, monkeypatch) -> None:
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(RootError, match="belongs to"):
        Queue(queue.paths.root)


def test_a_root_that_is_not_writable_is_refused() -> None:
    with fast_dir() as base:
        queue = Queue.create(base / "root")
        queue.paths.queue.chmod(0o555)
        if os.geteuid() == 0:  # root may write everywhere, so somebody else looks
            base.chmod(0o755)
            for path in [queue.paths.root, *queue.paths.root.rglob("*")]:
                os.chown(path, 65534, 65534)

        def look() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            with pytest.raises(RootError, match="not writable"):
                Queue(queue.paths.root)

        assert not killed_at(-1, look)
        queue.paths.queue.chmod(0o755)


def test_a_root_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RootError) as caught:
        Queue.create(tmp_path / "file" / "root")
    assert caught.value.hint
