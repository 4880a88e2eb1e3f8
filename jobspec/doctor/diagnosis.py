"""What follows from the measurements: one result per check, and recommended settings."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobspec.doctor import probes
from jobspec.doctor.measurements import (
    CheckResult,
    JointMeasurement,
    Location,
    Measurements,
    Recommendation,
    VisibilityLag,
)
from jobspec.errors import RootError
from jobspec.queue import root as roots
from jobspec.records.queue_files import Format
from jobspec.storage.layout import MAX_PRIORITY, RootPaths, Ticket

LONGEST_NAME = len(
    Ticket(MAX_PRIORITY, "20261122T124057123456Z", "a" * 60 + "-0123456789", 999_999).claimed_by(
        "w" * 80
    )
)
_BELOW_ROOT = 700  # the longest path below a root, with some reserve
_PATH_MAX = 4096
_LONGEST_POLL_S = 30.0
_MIN_FREE_GIB, _LITTLE_GIB = 1.0, 100.0  # a worker's own limit; a checkpoint of an 8B model
_FEW_INODES = 10_000
_SLOW_S = 0.5
_CLOCKS_APART_S = 30.0


def checks(
    root: Path,
    location: Location,
    tmpdir: Location,
    measured: Measurements | None,
    problem: str | None,
) -> list[CheckResult]:
    """The result of every check; `problem` is why nothing could be measured."""
    results = [
        *_check_root(root, location),
        *_check_lengths(root, location, tmpdir),
        *_check_space(location),
    ]
    if problem is not None:
        results.append(_bad("writing", problem, "choose a writable directory with --root DIR"))
    if measured is not None:
        results += [*_check_rename(measured), *_check_costs(measured), *_check_races(measured)]
        results += [*_check_visibility(measured), *_check_clocks(measured)]
        results += _check_notifications(location, measured)
    return results


def recommend(location: Location, measured: Measurements, patience_s: float) -> Recommendation:
    """Poll interval, heartbeat and lease that fit what was measured."""
    lag_s, known = _worst_lag(measured)
    if not known:
        lag_s = max(lag_s, patience_s)
    rename_s = measured.costs.rename.longest_s
    heartbeat_s = max(15.0, _round_up(20 * rename_s))
    # The longest silence of a live worker is one heartbeat interval, the lag and length of its
    # rename, and one gap between two looks, counted as two intervals. A lease is twice that.
    lease_s = max(
        10 * heartbeat_s, _round_up(2 * (heartbeat_s + lag_s + rename_s + 2 * heartbeat_s))
    )
    why = f"a heartbeat takes {_short(rename_s)} and becomes visible within {_short(lag_s)}"
    if not known:
        why += " or later: measure again with a larger --seconds"
    elif measured.across is None and not location.local:
        why += " on this host; run it on two hosts at once to measure others (--wait-for 2)"
    return Recommendation(
        notifications=location.local and all(measured.here.noticed.values()),
        poll_s=max(2.0, _round_up(lag_s)) if lag_s > 2 else 2.0,
        longest_poll_s=max(_LONGEST_POLL_S, _round_up(2 * lag_s)),
        heartbeat_s=heartbeat_s,
        lease_s=lease_s,
        why=why,
    )


def compare(layout: Format | None, recommended: Recommendation) -> Iterator[CheckResult]:
    """Compare the root's FORMAT with the recommended settings."""
    if layout is None:
        return
    settings = f"heartbeat {layout.heartbeat_s:g} s, lease {layout.lease_s:g} s"
    if layout.lease_s < recommended.lease_s or layout.heartbeat_s < recommended.heartbeat_s:
        wanted = f"heartbeat {recommended.heartbeat_s:g} s, lease {recommended.lease_s:g} s"
        hint = f"while no worker runs, `jobspec doctor --apply` sets {wanted}: {recommended.why}"
        yield _warn("lease", f"{settings}: live workers may be mistaken for dead ones", hint)
    else:
        yield _ok("lease", settings)


def _check_root(root: Path, location: Location) -> Iterator[CheckResult]:
    kind = "local" if location.local else "possibly shared with other hosts"
    yield _ok("filesystem", f"{location.filesystem} at {location.mounted_at or '?'}, {kind}")
    if "soft" in location.options:
        hint = "ask for a hard mount: with a soft one calls fail while the server is busy"
        yield _warn("filesystem", "it is a soft mount", hint)
    group = roots.group_allowed()
    try:
        if RootPaths(root).format.exists():
            roots.open_root(RootPaths(root), group=group)
            yield _ok("root", "a jobspec queue, safe and writable")
        elif root.is_dir():
            roots.check_directory(root, group=group)
            yield _ok("root", "no queue yet: `jobspec enqueue` creates it")
        else:
            yield _ok("root", f"does not exist yet; measured in {location.path}")
    except RootError as error:
        yield _bad("root", str(error), error.hint)
    for path in filter(_is_open_to_all, root.parents):
        yield _bad("root", f"other users may replace what is in {path}", f"run: chmod +t {path}")


def _is_open_to_all(directory: Path) -> bool:
    try:
        mode = directory.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _check_lengths(root: Path, location: Location, tmpdir: Location) -> Iterator[CheckResult]:
    root_bytes = len(os.fsencode(root))
    if location.longest_name < LONGEST_NAME:
        message = f"names may have {location.longest_name} bytes, the queue needs {LONGEST_NAME}"
        yield _bad("names", message, "choose a root on another filesystem")
    elif root_bytes + _BELOW_ROOT > _PATH_MAX:
        message = f"the root's path has {root_bytes} bytes; {_PATH_MAX} are the limit of any path"
        yield _bad("names", message, "choose a root with a shorter path")
    else:
        message = f"names may have {location.longest_name} bytes, the queue needs {LONGEST_NAME}"
        yield _ok("names", message)
    longest = len(os.fsencode(tmpdir.path)) + probes.WORKER_TMP + probes.ENGINE_SOCKET
    if longest > probes.SOCKET_PATH_MAX:
        message = f"{tmpdir.path} is too long: socket paths in it have up to {longest} bytes"
        hint = f"the limit is {probes.SOCKET_PATH_MAX}; set TMPDIR=/tmp"
        yield _warn("tmpdir", message, hint)
    elif not tmpdir.local:
        message = f"{tmpdir.path} is on {tmpdir.filesystem}"
        yield _warn("tmpdir", message, "set TMPDIR to a directory on the node's disk, such as /tmp")
    else:
        yield _ok("tmpdir", f"{tmpdir.path}, socket paths up to {longest} bytes")


def _check_space(location: Location) -> Iterator[CheckResult]:
    room = location.room
    message = f"{room.free_gib:,.1f} GiB free"
    hint = "free some space; a quota may leave less than the filesystem shows"
    if room.free_gib < _MIN_FREE_GIB:
        yield _bad("space", message, hint)
    elif room.free_gib < _LITTLE_GIB:
        yield _warn("space", f"{message}; a checkpoint of an 8B model takes about 100", hint)
    else:
        yield _ok("space", message)
    if room.free_inodes is not None and room.free_inodes < _FEW_INODES:
        message = f"{room.free_inodes:,} inodes free"
        yield _warn("space", message, "remove small files, or ask for more inodes")


def _check_rename(measured: Measurements) -> Iterator[CheckResult]:
    for broken in measured.broken:
        yield _bad("rename", broken, "choose a root on another filesystem")


def _check_costs(measured: Measurements) -> Iterator[CheckResult]:
    costs = measured.costs
    message = f"fsynced publish {_short(costs.publish.median_s)}, rename "
    message += f"{_short(costs.rename.median_s)}, listing {_short(costs.listing.median_s)}"
    message += " (medians)"
    if costs.publish.median_s > _SLOW_S or costs.rename.median_s > _SLOW_S:
        yield _warn("cost", message, "claims will take seconds; is the server busy?")
    else:
        yield _ok("cost", message)


def _check_races(measured: Measurements) -> Iterator[CheckResult]:
    for where, race in [(w, race) for w, joint in _joint(measured) for race in joint.races]:
        shares = ", ".join(map(str, race.won))
        message = f"{race.files} files, {len(race.won)} members {where} (won {shares})"
        if race.doubled or race.unclaimed:
            wrong = f"{race.doubled} files have two winners, {race.unclaimed} have none"
            yield _bad("race", f"{message}: {wrong}", "choose a root on another filesystem")
            continue
        errors = " and ".join(f"{count} {error}" for error, count in race.losers.items())
        message += f": one winner each, losers got {errors or 'no error'}"
        if race.lost_replies:
            message += f"; {race.lost_replies} winners got an error too"
        yield _ok("race", message)
        if set(race.losers) - {"ENOENT"}:
            hint = "workers still claim jobs after such an error, but log that the root failed"
            yield _warn("race", f"losers get other errors than ENOENT {where}", hint)


def _check_visibility(measured: Measurements) -> Iterator[CheckResult]:
    for where, joint in _joint(measured):
        kinds = dict.fromkeys(lag.kind for lag in joint.lags)
        worst = {kind: _longest([lag for lag in joint.lags if lag.kind == kind]) for kind in kinds}
        message = ", ".join(f"{kind} {_or_more(*lag)}" for kind, lag in worst.items())
        if joint.silent:
            names = ", ".join(joint.silent)
            hint = "changes take longer to become visible, or it was stopped: try larger --seconds"
            yield _bad("visibility", f"{names} did not answer in time {where}", hint)
        elif any(missed for _, missed in worst.values()):
            hint = "lower the age of the attribute cache (NFS: actimeo, sshfs: dcache_timeout)"
            yield _bad("visibility", f"changes are visible late or never {where}: {message}", hint)
        elif message:
            yield _ok("visibility", f"lag {where} at most: {message}")
    if measured.missed_peers is not None:
        hint = "start all within a minute on one root; or changes take that long to become visible"
        yield _bad("visibility", measured.missed_peers, hint)


def _check_clocks(measured: Measurements) -> Iterator[CheckResult]:
    ahead_s, error_s = measured.server_clock.ahead_s, measured.server_clock.error_s
    direction = "ahead" if ahead_s > 0 else "behind"
    message = f"the clock that stamps files is {_short(abs(ahead_s))} {direction}"
    message += f", ± {_short(error_s)}"
    if abs(ahead_s) - error_s > _CLOCKS_APART_S:
        hint = "let NTP set the clocks; leases are safe, but order and ages are wrong"
        yield _warn("clock", message, hint)
    else:
        yield _ok("clock", message)


def _check_notifications(location: Location, measured: Measurements) -> Iterator[CheckResult]:
    here = all(measured.here.noticed.values()) if measured.here.noticed else False
    across = measured.across
    there = across is not None and bool(across.noticed) and all(across.noticed.values())
    message = f"inotify {'reports' if here else 'does not report'} changes made on this host"
    if across is not None:
        message += f", {'and' if there else 'not'} those made on others"
    if location.local and not here:
        yield _warn("notifications", message, "start workers with --poll")
    elif location.local and across is not None and not there:
        hint = "this filesystem counts as local, but others write to it: start workers with --poll"
        yield _warn("notifications", message, hint)
    else:
        yield _ok("notifications", message)


def _joint(measured: Measurements) -> list[tuple[str, JointMeasurement]]:
    across = [("across hosts", measured.across)] if measured.across is not None else []
    return [("on this host", measured.here), *across]


def _worst_lag(measured: Measurements) -> tuple[float, bool]:
    """The longest lag, and whether no change took longer than that."""
    lags = [lag for _, joint in _joint(measured) for lag in joint.lags]
    silent = any(joint.silent for _, joint in _joint(measured))
    longest_s, missed = _longest(lags)
    return longest_s, not silent and not missed


def _longest(lags: Sequence[VisibilityLag]) -> tuple[float, bool]:
    """The longest of these lags, and whether some change was not seen at all."""
    return max((lag.longest_s or 0.0 for lag in lags), default=0.0), any(lag.missed for lag in lags)


def _or_more(longest_s: float, missed: bool) -> str:
    return "not seen in time" if missed else _short(longest_s)


def _round_up(seconds: float) -> float:
    """Up to a multiple of five seconds."""
    return 5.0 * math.ceil(seconds / 5)


def _short(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def _ok(check: str, message: str) -> CheckResult:
    return CheckResult(check=check, severity="ok", message=message)


def _warn(check: str, message: str, hint: str | None) -> CheckResult:
    return CheckResult(check=check, severity="warn", message=message, hint=hint)


def _bad(check: str, message: str, hint: str | None) -> CheckResult:
    return CheckResult(check=check, severity="bad", message=message, hint=hint)
