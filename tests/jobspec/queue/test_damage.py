"""Tickets and specs that are damaged, edited, purged, unreadable or owned by another user."""

from __future__ import annotations

import json
import os
import stat

import pytest

from jobspec.errors import JobspecError
from jobspec.queue.queue import Queue
from jobspec.records.base import Reason, State
from jobspec.spec.identity import canonical, digest
from jobspec.storage.layout import Ticket
from tests.support.paths import stems
from tests.support.queues import W
from tests.support.specs import score_spec


@pytest.mark.parametrize("damage", [b"", b"{", b'{"name": "other"}'])
def test_a_damaged_ticket_is_restored_from_the_job(queue: Queue, damage: bytes) -> None:
    job = queue.enqueue(score_spec())
    next(queue.paths.state(State.PENDING).iterdir()).write_bytes(damage)
    claim = queue.claim(W)
    assert claim is not None and claim.spec == score_spec()
    assert claim.entry.path(queue.paths).read_bytes() == canonical(score_spec())
    assert job.paths.spec.read_bytes() == canonical(score_spec())


def test_a_ticket_damaged_after_it_was_read_is_restored(queue: Queue) -> None:
    queue.enqueue(score_spec())
    assert queue.claim(W, now=lambda ticket: False) is None  # the spec is remembered from here on
    next(queue.paths.state(State.PENDING).iterdir()).write_bytes(b"{")
    claim = queue.claim(W)
    assert claim is not None
    assert claim.entry.path(queue.paths).read_bytes() == canonical(score_spec())


def test_a_spec_edited_after_its_ticket_was_read_is_kept_under_another_name(queue: Queue) -> None:
    job = queue.enqueue(score_spec())

    def edit(_: Ticket) -> bool:
        job.paths.spec.chmod(0o644)
        job.paths.spec.write_bytes(b"{")
        return True

    claim = queue.claim(W, now=edit)
    assert claim is not None and claim.spec == score_spec()
    assert job.paths.spec.read_bytes() == canonical(score_spec())
    assert (job.paths.dir / "spec.edited.json").read_bytes() == b"{"


def test_an_edited_spec_is_kept_under_another_name_and_restored(queue: Queue) -> None:
    job = queue.enqueue(score_spec())
    job.paths.spec.chmod(0o644)
    job.paths.spec.write_bytes(canonical(score_spec(notes="edited")))
    assert queue.job(job.id).spec == score_spec()  # from the ticket, whose hash is in the id
    claim = queue.claim(W)
    assert claim is not None and claim.spec == score_spec()
    assert job.paths.spec.read_bytes() == canonical(score_spec())
    assert stat.S_IMODE(job.paths.spec.stat().st_mode) == 0o444
    edited = job.paths.dir / "spec.edited.json"
    assert edited.read_bytes() == canonical(score_spec(notes="edited"))


def test_a_claim_makes_a_purged_job_directory_again(queue: Queue) -> None:
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
    now = queue.job(job.id)
    assert (now.state, now.reason) == ("failed", Reason.CORRUPT)
    assert now.end is not None and now.end.hint and now.end.worker == W
    with pytest.raises(JobspecError, match="damaged"):
        _ = now.spec


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


def test_a_later_versions_spec_that_looked_damaged_is_pending_again(queue: Queue) -> None:
    data = json.dumps({**json.loads(canonical(score_spec())), "schema_version": 2}).encode()
    job = f"theirs-{digest(data)}"
    entry = queue.paths.state(State.PENDING) / f"900-20261122T124057123456Z-{job}.1.json"
    entry.touch()

    def arrives(ticket: Ticket) -> bool:  # between the read and the claim
        entry.write_bytes(data)
        return True

    assert queue.claim(W, now=arrives) is None
    assert (queue.job(job).state, queue.job(job).attempt) == ("pending", 2)
    assert queue.claim(W) is None
    assert "schema_version" in queue.notes[job]


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
def test_an_unreadable_entry_does_not_block_the_others(queue: Queue, what: str) -> None:
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
    if what == "others' spec":  # its ticket is valid, so spec.json is restored from it
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
