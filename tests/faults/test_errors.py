"""Each filesystem call of each transition fails once, or succeeds but reports an error.

The call must raise or succeed, no job may be lost or duplicated, and calling it again afterwards
must succeed.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import ClaimLost, DiskFull, JobspecError, TransitionRefused
from tests.faults.test_kill import TRANSITIONS, World, build, check, check_corrupt
from tests.support.faulty_os import CALLS, Fault, fails_with, faulty, loses_reply
from tests.support.paths import fast_dir, hidden

# ENOSPC is handled separately and all other errors alike, so every call is tested with two errors.
# The calls that decide the protocol are tested with two more.
EVERYWHERE = (errno.ENOSPC, errno.EIO)
AT_DECISIONS = (errno.ESTALE, errno.EPERM)
_DECIDING_CALLS = frozenset({"rename", "listdir", "lstat", "mkdir"})


@pytest.fixture
def base() -> Iterator[Path]:
    with fast_dir() as path:
        yield path


def fail_each_call(base: Path, transition: str, fault: Fault, only: frozenset[str]) -> int:
    """Let each call fail in turn. Returns the number of calls."""
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
        with contextlib.suppress(TransitionRefused, ClaimLost):  # it had succeeded after all
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
    assert fail_each_call(base, transition, fails_with(number), CALLS - {"close"}) > 0


@pytest.mark.parametrize("number", AT_DECISIONS, ids=errno.errorcode.get)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_an_error_at_each_step_of_the_protocol(transition: str, number: int, base: Path) -> None:
    fail_each_call(base, transition, fails_with(number), _DECIDING_CALLS)


RIVAL = "rival-0123456789abcdef"


def lose_each_reply(base: Path, transition: str, fault: Callable[[World], Fault]) -> None:
    """Let the reply to each rename in turn be lost. The call must succeed nevertheless."""
    prepare, act = TRANSITIONS[transition]
    index, fired = 0, True
    while fired:
        root = base / str(index)
        world = build(root)
        known = {job.id for job in world.queue.jobs()}
        prepare(world)
        with faulty(index, fault(world), frozenset({"rename"})) as calls:
            result = act(world)
        fired = calls.fired
        if transition in ("claim", "claim damaged ticket", "claim purged directory"):
            assert result is not None, "a worker won but returned no claim"
        world.queue.reap(worker=RIVAL, now=True)
        if transition == "claim corrupt":
            check_corrupt(root, world)
        else:
            check(root, known, transition)
        index += 1


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_lost_reply_at_every_rename(transition: str, base: Path) -> None:
    """The rename happened, its reply was lost, and the repeated call gets ENOENT."""
    lose_each_reply(base, transition, lambda world: loses_reply)


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_lost_reply_at_every_rename_while_another_worker_claims(
    transition: str, base: Path
) -> None:
    """As above, and before the reply another worker claims whatever is pending by then."""

    def claims_before_the_reply(world: World) -> Fault:
        def fault(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
            def claim_all_and_reply() -> None:
                call()
                while world.queue.claim(RIVAL) is not None:
                    pass

            return loses_reply(name, args, claim_all_and_reply)

        return fault

    lose_each_reply(base, transition, claims_before_the_reply)
