"""A root that a group shares: two users with two umasks, and readers who may not write."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobspec.cli import cli
from jobspec.errors import RootError
from jobspec.queue import acquire, candidates, claim, enqueue, fair_share, fsck, transitions
from jobspec.queue import root as roots
from jobspec.queue.queue import Queue
from jobspec.records.base import State
from jobspec.storage import fs
from tests.support.faulty_os import fork
from tests.support.queues import V, W
from tests.support.specs import score_spec
from worker.supervisor.carry_over import carry_over

GROUP, ADA, BOB, EVE = 4000, 4001, 4002, 4003

# Loaded before another user runs, who may not be able to read Python's own files.
LOADED = (acquire, candidates, claim, enqueue, fair_share, fsck, transitions)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become two users")


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory of the group, which every user can reach."""
    base = Path(tempfile.mkdtemp(prefix="jsg-", dir="/tmp"))
    base.chmod(0o755)
    shared = base / "shared"
    shared.mkdir()
    os.chown(shared, ADA, GROUP)
    shared.chmod(0o2775)
    yield shared / "root"
    shutil.rmtree(base)


def as_user(user: int, umask: int, body: Callable[[], object], group: int = GROUP) -> None:
    """Run `body` in a child process as this user, with its own primary group."""

    def child() -> None:
        os.setgroups([group])
        os.setgid(user)
        os.setuid(user)
        os.umask(umask)
        os.environ["JOBSPEC_ALLOW_GROUP"] = "1" if group == GROUP else "0"
        roots.restrict_umask()
        body()

    assert os.waitstatus_to_exitcode(os.waitpid(fork(child), 0)[1]) == 0


@pytest.mark.parametrize(("first", "second"), [(0o022, 0o077), (0o077, 0o022), (0o002, 0o027)])
def test_members_with_any_umask_take_over_each_others_attempts(
    root: Path, first: int, second: int
) -> None:
    def begin() -> None:
        queue = Queue.create(root)
        job = queue.enqueue(score_spec())
        queue.hold("maintenance")
        queue.release()
        queue.hold("again")
        queue.heartbeat(W)
        queue.release()
        held = queue.claim(W)
        assert held is not None and held.job == job.id
        checkpoint = held.dir.checkpoints / "epoch-1"
        checkpoint.mkdir(parents=True)  # as a library makes it
        (checkpoint / "weights").write_bytes(b"x")
        (root / "cache" / "datasets").mkdir(parents=True)
        fs.append(held.dir.events, b"{}\n")
        held.requeue("preempted")
        queue.hold("by the first")

    def go_on() -> None:
        queue = Queue(root)
        queue.hold("by the second")
        queue.release()
        queue.heartbeat(V)
        held = queue.claim(V)
        assert held is not None and held.attempt == 2
        carry_over(queue.paths.job(held.job), held.dir, root)
        assert (held.dir.checkpoints / "epoch-1" / "weights").read_bytes() == b"x"
        (held.dir.checkpoints / "epoch-1" / "more").write_bytes(b"y")
        (root / "cache" / "datasets" / "rows").mkdir()
        held.finish("succeeded", {"metrics": {}})

    def clean_up() -> None:
        queue = Queue(root)
        (job,) = queue.jobs()
        assert job.state is State.SUCCEEDED
        fs.discard(job.paths.attempt(2).checkpoints, into=root)
        assert not [path for path in root.iterdir() if path.name.startswith(".tmp-")]

    as_user(ADA, first, begin)
    as_user(BOB, second, go_on)
    as_user(ADA, first, clean_up)
    wrong = [
        path
        for path in [root, *root.rglob("*")]
        if not path.is_symlink() and (path.stat().st_gid != GROUP)
    ]
    assert wrong == []


def test_members_share_hours_and_limits(root: Path) -> None:
    def enqueue_as(name: str) -> None:
        os.environ["LOGNAME"] = name
        enqueue.current_user.cache_clear()
        Queue.create(root).enqueue(score_spec(name))

    def limit_and_claim() -> None:
        queue = Queue(root)
        fair_share.write_limit(queue.paths, None, 1)
        fair_share.write_limit(queue.paths, "ada", 0)
        queue.heartbeat(V)
        held = queue.claim(V)
        assert held is not None and queue.job(held.job).user == "bob"
        assert queue.claim(W) is None

    as_user(ADA, 0o077, lambda: enqueue_as("ada"))
    as_user(BOB, 0o077, lambda: enqueue_as("bob"))
    as_user(ADA, 0o022, lambda: fair_share.write_limit(Queue(root).paths, "bob", 2))
    as_user(BOB, 0o077, limit_and_claim)
    assert sorted(fs.list_names(root / "queue" / "users")) == ["ada", "bob"]


def test_a_root_without_the_setgid_bit_keeps_its_group(root: Path) -> None:
    def create() -> None:
        Queue.create(root)
        for path in [root, *root.rglob("*")]:
            if path.is_dir():
                os.chown(path, -1, GROUP)
                path.chmod(0o775)
        Queue(root).enqueue(score_spec())

    as_user(ADA, 0o022, create)
    made = [path for path in (root / "jobs").iterdir() if path.is_dir()]
    assert [(path.stat().st_gid, path.stat().st_mode & 0o777) for path in made] == [(GROUP, 0o775)]


@pytest.mark.parametrize("command", ["status", "results", "show", "report", "logs"])
def test_a_user_who_can_read_a_root_can_look_at_it(root: Path, command: str) -> None:
    def fill() -> None:
        queue = Queue.create(root)
        queue.enqueue(score_spec())
        held = queue.claim(W)
        assert held is not None
        held.dir.log("eval").write_text("a line\n")
        held.finish("succeeded", {"metrics": {}})

    def look() -> None:
        place = tempfile.mkdtemp(dir="/tmp")
        job = [] if command in ("status", "results", "report") else ["job"]
        os.chdir(place)
        try:
            code = cli([command, *job, "--root", str(root)], standalone_mode=False)
            assert code in (None, 0)
        finally:
            os.chdir("/")
            shutil.rmtree(place)

    def only_look() -> None:
        with pytest.raises(RootError):
            Queue(root)
        look()

    as_user(ADA, 0o022, fill)
    with contextlib.chdir(Path.cwd()):  # it goes elsewhere, and later tests run here
        look()
    as_user(EVE, 0o077, only_look, group=EVE)
