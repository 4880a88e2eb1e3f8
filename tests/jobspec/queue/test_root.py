"""Roots: creating and opening them, and refusing missing, unsafe or foreign ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from jobspec.errors import RootError
from jobspec.queue.queue import Queue
from tests.support.faulty_os import killed_at
from tests.support.paths import fast_dir
from tests.support.specs import score_spec


def test_create_opens_an_existing_root(tmp_path: Path) -> None:
    first = Queue.create(tmp_path / "root", heartbeat_s=1, lease_s=7)
    second = Queue.create(tmp_path / "root")
    assert (second.format.heartbeat_s, second.format.lease_s) == (1, 7)
    assert first.paths == second.paths


def test_a_directory_that_is_no_root_is_refused(tmp_path: Path) -> None:
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
        if os.geteuid() == 0:  # root may write everywhere, so another user tries
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


def test_a_root_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RootError) as caught:
        Queue.create(tmp_path / "file" / "root")
    assert caught.value.hint
