"""What follows from the measurements: what is well, what to change, which times to set."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobspec.doctor import probes
from jobspec.doctor.measurements import Advice, Check, Found, Lag, Measured, Place
from jobspec.errors import RootError
from jobspec.queue import root as roots
from jobspec.records.queue_files import Format
from jobspec.storage.layout import MAX_PRIORITY, RootPaths, Ticket

LONGEST_NAME = len(
    Ticket(MAX_PRIORITY, "20261122T124057123456Z", "a" * 60 + "-0123456789", 999_999).claimed_by(
        "w" * 80
    )
)
_BELOW_ROOT = 700  # a generation's file below a job of the longest name, with room to spare
_PATH_MAX = 4096
_LONGEST_POLL_S = 30.0
_MIN_FREE_GIB, _LITTLE_GIB = 1.0, 100.0  # a worker's own limit; an 8B model's resume state
_FEW_INODES = 10_000
_SLOW_S = 0.5
_CLOCKS_APART_S = 30.0


def checks(
    root: Path, place: Place, tmpdir: Place, measured: Measured | None, trouble: str | None
) -> list[Check]:
    """Every finding, in the order in which a queue needs them."""
    found = [*_of_root(root, place), *_of_lengths(root, place, tmpdir), *_of_room(place)]
    if trouble is not None:
        found.append(_bad("writing", trouble, "try where you may write: --root DIR"))
    if measured is not None:
        found += [*_of_meaning(measured), *_of_costs(measured), *_of_races(measured)]
        found += [*_of_sight(measured), *_of_clocks(measured), *_of_news(place, measured)]
    return found


def advise(place: Place, measured: Measured, patience_s: float) -> Advice:
    """Poll, heartbeat and lease that fit what was measured."""
    lag_s, known = _worst_lag(measured)
    if not known:
        lag_s = max(lag_s, patience_s)
    beat_s = measured.costs.rename.longest_s
    heartbeat_s = max(15.0, _rounded(20 * beat_s))
    # In a live worker's silence a reader may see one beat to come, that beat's lag, and one gap
    # between two looks, counted as two beats at most. A lease is twice that.
    lease_s = max(10 * heartbeat_s, _rounded(2 * (heartbeat_s + lag_s + beat_s + 2 * heartbeat_s)))
    notifications = place.local and all(measured.here.noticed.values())
    why = f"a beat takes {_short(beat_s)} and is seen {_short(lag_s)} late at the worst"
    if not known:
        why += " or later: measure again with a larger --seconds"
    elif measured.across is None and not place.local:
        why += " on this host; run it on two at once to know of others (--wait-for 2)"
    return Advice(
        notifications=notifications,
        poll_s=max(2.0, _rounded(lag_s)) if lag_s > 2 else 2.0,
        longest_poll_s=max(_LONGEST_POLL_S, _rounded(2 * lag_s)),
        heartbeat_s=heartbeat_s,
        lease_s=lease_s,
        why=why,
    )


def compare(layout: Format | None, advice: Advice) -> Iterator[Check]:
    """What the root's FORMAT says, against what it should."""
    if layout is None:
        return
    told = f"heartbeat {layout.heartbeat_s:g} s, lease {layout.lease_s:g} s"
    if layout.lease_s < advice.lease_s or layout.heartbeat_s < advice.heartbeat_s:
        wanted = f'"heartbeat_s": {advice.heartbeat_s:g}, "lease_s": {advice.lease_s:g}'
        hint = f"while no worker runs, set {wanted} in FORMAT: {advice.why}"
        yield _warn("lease", f"{told}: live workers may be taken for dead", hint)
    else:
        yield _ok("lease", told)


def _of_root(root: Path, place: Place) -> Iterator[Check]:
    kind = "local" if place.local else "not known to be local"
    yield _ok("filesystem", f"{place.filesystem} at {place.mounted_at or '?'}, {kind}")
    if "soft" in place.options:
        hint = "ask for a hard mount: a soft one lets calls fail when the server is busy"
        yield _warn("filesystem", "it is mounted soft", hint)
    group = roots.group_allowed()
    try:
        if (root / "FORMAT").exists():
            roots.open_root(RootPaths(root), group=group)
            yield _ok("root", "is a queue of ours, safe and writable")
        elif root.is_dir():
            roots.check_directory(root, group=group)
            yield _ok("root", "no queue yet: `jobspec enqueue` makes one")
        else:
            yield _ok("root", f"is not there yet; tried in {place.path}")
    except RootError as error:
        yield _bad("root", str(error), error.hint)
    for path in filter(_is_open_to_all, root.parents):
        yield _bad("root", f"others may replace what is in {path}", f"run: chmod +t {path}")


def _is_open_to_all(directory: Path) -> bool:
    try:
        mode = directory.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _of_lengths(root: Path, place: Place, tmpdir: Place) -> Iterator[Check]:
    if place.longest_name < LONGEST_NAME:
        told = f"names may have {place.longest_name} bytes, a claim's has up to {LONGEST_NAME}"
        yield _bad("names", told, "choose a root on another filesystem")
    elif len(os.fsencode(root)) + _BELOW_ROOT > _PATH_MAX:
        told = f"the root's path has {len(os.fsencode(root))} bytes, all of a path {_PATH_MAX}"
        yield _bad("names", told, "choose a root with a shorter path")
    else:
        yield _ok("names", f"{place.longest_name} bytes a name, ours have up to {LONGEST_NAME}")
    longest = len(os.fsencode(tmpdir.path)) + probes.WORKER_TMP + probes.ENGINE_SOCKET
    if longest > probes.SOCKET_PATH_MAX:
        told = f"{tmpdir.path} is too long: sockets in it have up to {longest} bytes"
        hint = f"at most {probes.SOCKET_PATH_MAX} are possible; set TMPDIR=/tmp"
        yield _warn("tmpdir", told, hint)
    elif not tmpdir.local:
        told = f"{tmpdir.path} is on {tmpdir.filesystem}"
        yield _warn("tmpdir", told, "set TMPDIR to a directory of the node, as /tmp")
    else:
        yield _ok("tmpdir", f"{tmpdir.path}, sockets up to {longest} bytes")


def _of_room(place: Place) -> Iterator[Check]:
    room = place.room
    told = f"{room.free_gib:,.1f} GiB free"
    hint = "make room; a quota may leave less than the filesystem shows"
    if room.free_gib < _MIN_FREE_GIB:
        yield _bad("space", told, hint)
    elif room.free_gib < _LITTLE_GIB:
        yield _warn("space", f"{told}; a resume state of an 8B model takes about 100", hint)
    else:
        yield _ok("space", told)
    if room.free_inodes is not None and room.free_inodes < _FEW_INODES:
        told = f"{room.free_inodes:,} inodes free"
        yield _warn("space", told, "remove small files, or ask for more")


def _of_meaning(measured: Measured) -> Iterator[Check]:
    for broken in measured.broken:
        yield _bad("rename", broken, "choose a root on another filesystem")


def _of_costs(measured: Measured) -> Iterator[Check]:
    costs = measured.costs
    told = f"fsynced publish {_short(costs.publish.median_s)}, rename "
    told += f"{_short(costs.rename.median_s)}, listing {_short(costs.listing.median_s)} (medians)"
    if costs.publish.median_s > _SLOW_S or costs.rename.median_s > _SLOW_S:
        yield _warn("cost", told, "claims will take seconds; is the server busy?")
    else:
        yield _ok("cost", told)


def _of_races(measured: Measured) -> Iterator[Check]:
    races = [(place, race) for place, found in _meetings(measured) for race in found.races]
    for place, race in races:
        shares = ", ".join(map(str, race.won))
        told = f"{race.files} files, {len(race.won)} processes {place} (won {shares})"
        if race.doubled or race.unclaimed:
            wrong = f"{race.doubled} won twice, {race.unclaimed} by nobody"
            yield _bad("race", f"{told}: {wrong}", "choose a root on another filesystem")
        else:
            losers = " and ".join(f"{count} {error}" for error, count in race.losers.items())
            lost = f"; {race.lost_replies} winners were told they lost" * bool(race.lost_replies)
            yield _ok("race", f"{told}: one winner each, losers told {losers or 'nothing'}{lost}")
            if set(race.losers) - {"ENOENT"}:
                hint = "claims go on after such an error, but say that the root doesn't answer"
                yield _warn("race", f"losers are told more than ENOENT {place}", hint)


def _of_sight(measured: Measured) -> Iterator[Check]:
    for place, found in _meetings(measured):
        kinds = dict.fromkeys(lag.kind for lag in found.lags)
        worst = {kind: _longest([lag for lag in found.lags if lag.kind == kind]) for kind in kinds}
        told = ", ".join(f"{kind} {_or_more(*late)}" for kind, late in worst.items())
        if found.silent:
            names = ", ".join(found.silent)
            hint = "changes are seen later than that, or it was stopped: try a larger --seconds"
            yield _bad("visibility", f"{names} did not answer in time {place}", hint)
        elif any(missed for _, missed in worst.values()):
            hint = "lower the attribute cache's age (NFS: actimeo, sshfs: dcache_timeout)"
            yield _bad("visibility", f"seen late or not at all {place}: {told}", hint)
        elif told:
            yield _ok("visibility", f"at the longest {place}: {told}")
    if measured.missed_peers is not None:
        hint = "start all within a minute, on one root; or changes take that long to be seen"
        yield _bad("visibility", measured.missed_peers, hint)


def _of_clocks(measured: Measured) -> Iterator[Check]:
    server = measured.server_clock
    differences = [("the clock that stamps files", server.ahead_s, server.error_s)]
    for _, found in _meetings(measured):
        for each in found.clocks if found is measured.across else []:
            whose = f"{each.watcher}'s clock, against {each.actor}'s,"
            differences.append((whose, each.ahead_s, each.error_s))
    for whose, ahead_s, error_s in differences:
        apart = max(0.0, abs(ahead_s) - error_s)
        way = "ahead" if ahead_s > 0 else "behind"
        told = f"{whose} is {_short(abs(ahead_s))} {way}, ± {_short(error_s)}"
        if apart > _CLOCKS_APART_S:
            hint = "let NTP set the clocks; leases are safe, but order and ages are wrong"
            yield _warn("clock", told, hint)
        else:
            yield _ok("clock", told)


def _of_news(place: Place, measured: Measured) -> Iterator[Check]:
    here = all(measured.here.noticed.values()) if measured.here.noticed else False
    across = measured.across
    there = across is not None and bool(across.noticed) and all(across.noticed.values())
    told = f"inotify {'tells' if here else 'does not tell'} of changes made on this host"
    if across is not None:
        told += f", {'and' if there else 'not'} of those made on others"
    if place.local and not here:
        yield _warn("notifications", told, "start workers with --poll")
    elif place.local and across is not None and not there:
        hint = "this filesystem counts as local, but others write to it: start workers with --poll"
        yield _warn("notifications", told, hint)
    else:
        yield _ok("notifications", told)


def _meetings(measured: Measured) -> list[tuple[str, Found]]:
    across = [("across hosts", measured.across)] if measured.across is not None else []
    return [("on this host", measured.here), *across]


def _worst_lag(measured: Measured) -> tuple[float, bool]:
    """The longest lag seen, and whether that was all of it."""
    lags = [lag for _, found in _meetings(measured) for lag in found.lags]
    silent = any(found.silent for _, found in _meetings(measured))
    longest_s, missed = _longest(lags)
    return longest_s, not silent and not missed


def _longest(lags: Sequence[Lag]) -> tuple[float, bool]:
    """The longest of these lags, and whether some change was not seen at all."""
    return max((lag.longest_s or 0.0 for lag in lags), default=0.0), any(lag.missed for lag in lags)


def _or_more(longest_s: float, missed: bool) -> str:
    return "not seen in time" if missed else _short(longest_s)


def _rounded(seconds: float) -> float:
    """Up to a whole multiple of five seconds."""
    return 5.0 * math.ceil(seconds / 5)


def _short(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def _ok(check: str, told: str) -> Check:
    return Check(check=check, verdict="ok", told=told)


def _warn(check: str, told: str, hint: str | None) -> Check:
    return Check(check=check, verdict="warn", told=told, hint=hint)


def _bad(check: str, told: str, hint: str | None) -> Check:
    return Check(check=check, verdict="bad", told=told, hint=hint)
