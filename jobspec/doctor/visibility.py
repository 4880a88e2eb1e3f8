"""How late processes see each other's changes, and how far apart their clocks are.

All processes go through the same steps. In each, every process makes one change in its own
directory and waits until it sees that change in all other directories. Reports then say who made
which change when, and who saw it when. A change is seen after it began, so the shortest delays of
two processes in either direction bound the difference of their clocks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from jobspec.doctor.measurements import ClockOffset, VisibilityLag
from jobspec.doctor.participant import Participant
from jobspec.storage import fs, mounts

CREATED, RENAMED, REPLACED = KINDS = ("created", "renamed away", "replaced")
_ROUNDS = 5
_NOTICE_S = 1.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one process did and saw, step by step, on its own clock. Step i is of `KINDS[i % 3]`.

    `seen` has a time for every step and other process, None for a change that was not seen in time.
    `noticed`: whether inotify reported another's changes. `began`, `acted`: times before and after
    each change of this process.
    """

    noticed: bool
    began: list[float]
    acted: list[float]
    seen: dict[str, list[float | None]]


def observe(me: Participant, others: Sequence[str]) -> Report:
    """Go through the steps with the others; they end when a wait times out."""
    noticed = _is_notified(me, others)
    began: list[float] = []
    acted: list[float] = []
    seen: dict[str, list[float | None]] = {key: [] for key in others}
    for step in range(_ROUNDS * len(KINDS)):
        # All look before the first change, and each has seen the last one before the next hides it.
        if not _wait_for_all(me, others, f"ready.{step}"):
            break
        began.append(me.clock())
        _act(me, step)
        acted.append(me.clock())

        def look(step: int = step) -> bool | None:
            for key, times in seen.items():
                if len(times) == step and _is_visible(me, key, step):
                    times.append(me.clock())
            return True if all(len(times) > step for times in seen.values()) else None

        if not me.wait_for(look, me.patience_s):
            for times in seen.values():
                times.extend([None] * (step + 1 - len(times)))
            break
    return Report(noticed=noticed, began=began, acted=acted, seen=seen)


def _wait_for_all(me: Participant, others: Sequence[str], name: str) -> bool:
    fs.touch(me.dir / name)

    def look() -> bool | None:
        return all(name in me.listing(key) for key in others) or None

    return bool(me.wait_for(look, me.patience_s))


def clocks(
    reports: Mapping[str, Report], names: Mapping[str, str]
) -> dict[tuple[str, str], ClockOffset]:
    """By (actor, watcher): the watcher's clock against the actor's, where both saw a change."""
    offsets: dict[tuple[str, str], ClockOffset] = {}
    for actor, watcher in itertools.permutations(reports, 2):
        there = _delays(reports[actor].began, reports[watcher].seen[actor])
        back = _delays(reports[watcher].began, reports[actor].seen[watcher])
        if there and back:
            offsets[actor, watcher] = ClockOffset(
                actor=names[actor],
                watcher=names[watcher],
                ahead_s=(min(there) - min(back)) / 2,
                error_s=(min(there) + min(back)) / 2,
                round_trip_s=max(there) + max(back),
            )
    return offsets


def lags(
    reports: Mapping[str, Report],
    names: Mapping[str, str],
    clocks: Mapping[tuple[str, str], ClockOffset],
) -> Iterator[VisibilityLag]:
    """How late every process saw each kind of change of every other."""
    for actor, watcher in itertools.permutations(reports, 2):
        offset, report = clocks.get((actor, watcher)), reports[actor]
        seen = reports[watcher].seen[actor][: len(report.acted)]
        for number, kind in enumerate(KINDS):
            of_kind = seen[number :: len(KINDS)]
            delays = _delays(report.acted[number :: len(KINDS)], of_kind)
            late = sorted(max(0.0, delay - offset.ahead_s) for delay in delays) if offset else []
            if of_kind:
                yield VisibilityLag(
                    kind=kind,
                    actor=names[actor],
                    watcher=names[watcher],
                    median_s=late[len(late) // 2] if late else None,
                    longest_s=late[-1] if late else None,
                    missed=len(of_kind) - len(late),
                )


def _delays(acted: Sequence[float], seen: Sequence[float | None]) -> list[float]:
    """From each change until it was seen, with the clocks' difference in it."""
    return [at - then for then, at in zip(acted, seen, strict=False) if at is not None]


def _act(me: Participant, step: int) -> None:
    number, kind = step // len(KINDS), KINDS[step % len(KINDS)]
    if kind == CREATED:
        fs.touch(me.dir / f"thing.{number}")
    elif kind == RENAMED:
        fs.move_once(me.dir / f"thing.{number}", me.dir / f"gone.{number}")
    else:
        fs.replace(me.dir / "thing.content", str(number).encode())


def _is_visible(me: Participant, key: str, step: int) -> bool:
    number, kind = step // len(KINDS), KINDS[step % len(KINDS)]
    if kind == REPLACED:
        try:
            return (me.dirs[key] / "thing.content").read_bytes() == str(number).encode()
        except OSError:
            return False
    return (f"thing.{number}" in me.listing(key)) == (kind == CREATED)


def _is_notified(me: Participant, others: Sequence[str]) -> bool:
    """Whether inotify tells of another's changes, without a listing that could make them visible.

    Everybody makes changes as long as the others may watch.
    """
    noticed = False
    try:
        changes = iter(mounts.changes(me.dirs[others[0]]))
        next(changes, None)  # it watches from now on
        _wait_for_all(me, others, "watching")
        deadline = time.monotonic() + min(_NOTICE_S, me.patience_s / 2)
        while time.monotonic() < deadline:
            fs.touch(me.dir / f"notice.{time.monotonic_ns()}")
            noticed = bool(next(changes, None)) or noticed
    except RuntimeError:  # no inotify on this filesystem
        return False
    return noticed
