"""Every filesystem call of every transition fails once, or succeeds and says otherwise.

An error is never taken for an answer: the call raises or gets by, nothing is lost or doubled, and
the same call made again afterwards gets where it wanted to.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspec.errors import ClaimLost, DiskFull, JobspecError, TransitionRefused
from tests.faults.test_kill import TRANSITIONS, build, check, check_corrupt
from tests.support.queues import CALLS, Fault, fails_with, fast_dir, faulty, hidden, loses_reply

# ENOSPC has a path of its own; all other errors share one, so that two of them stand for each
# call, and the remaining two for the calls on which the protocol turns.
EVERYWHERE = (errno.ENOSPC, errno.EIO)
AT_THE_TURN = (errno.ESTALE, errno.EPERM)
_TURN = frozenset({"rename", "listdir", "lstat", "mkdir"})


@pytest.fixture
def base() -> Iterator[Path]:
    with fast_dir() as path:
        yield path


def torment(base: Path, transition: str, fault: Fault, only: frozenset[str]) -> int:
    """Let each call fail in turn; how many there were."""
    prepare, act = TRANSITIONS[transition]
    index = 0
    while True:
        root = base / str(index)
        world = build(root)
        known = world.queue.jobs()
        prepare(world)
        with faulty(index, fault, only) as calls:
            try:
                act(world)
            except ClaimLost:
                raise
            except (OSError, JobspecError) as error:
                assert calls.fired
                if isinstance(error, DiskFull):
                    assert error.file and error.hint
        if not calls.fired:
            return index
        with contextlib.suppress(TransitionRefused, ClaimLost):  # it had got there after all
            act(world)
        assert [path for path in hidden(root) if path.name.startswith(".tmp-")] == []
        if transition == "claim corrupt":
            check_corrupt(root, world)
        else:
            check(root, {job.id for job in known}, transition)
        shutil.rmtree(root)
        index += 1


@pytest.mark.parametrize("number", EVERYWHERE, ids=errno.errorcode.get)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_an_error_at_every_call(transition: str, number: int, base: Path) -> None:
    assert torment(base, transition, fails_with(number), CALLS - {"close"}) > 0


@pytest.mark.parametrize("number", AT_THE_TURN, ids=errno.errorcode.get)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_an_error_at_each_step_of_the_protocol(transition: str, number: int, base: Path) -> None:
    torment(base, transition, fails_with(number), _TURN)


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_lost_reply_at_every_rename(transition: str, base: Path) -> None:
    """The rename happened, its reply was lost, and the repeated call was told ENOENT."""
    prepare, act = TRANSITIONS[transition]
    index = 0
    while True:
        root = base / str(index)
        world = build(root)
        known = {job.id for job in world.queue.jobs()}
        prepare(world)
        with faulty(index, loses_reply, frozenset({"rename"})) as calls:
            result = act(world)
        if transition in ("claim", "claim damaged ticket", "claim purged directory"):
            assert result is not None, "a winner thought that it had lost"
        if not calls.fired:
            break
        if transition == "claim corrupt":
            check_corrupt(root, world)
        else:
            check(root, known, transition)
        index += 1
