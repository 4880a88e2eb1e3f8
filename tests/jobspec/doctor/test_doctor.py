"""The doctor on real directories, and on two directories that only pretend to be one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.doctor import diagnosis, probes
from jobspec.doctor.measurements import (
    CheckResult,
    Costs,
    Diagnosis,
    FreeSpace,
    JointMeasurement,
    Location,
    Measurements,
    RaceResult,
    ServerClock,
    Timing,
    VisibilityLag,
)
from jobspec.doctor.run import examine
from jobspec.doctor.session import Member
from jobspec.queue.queue import Queue
from jobspec.records.queue_files import Format
from jobspec.storage import mounts, tempfiles
from tests.support.commands import environment, jobspec, jobspec_json
from tests.support.faulty_os import race
from tests.support.queues import queue_at
from worker.host import disk

LOCATION = Location(
    path="/scratch/me",
    filesystem="lustre",
    source="mds:/scratch",
    mounted_at="/scratch",
    local=False,
    options=["rw"],
    longest_name=255,
    room=FreeSpace(free_gib=500.0, free_inodes=10**9),
)
TMP = msgspec.structs.replace(LOCATION, path="/tmp", filesystem="ext4", local=True)
FAST = Timing(count=20, median_s=0.001, longest_s=0.01)
MEASURED = Measurements(
    costs=Costs(publish=FAST, rename=FAST, listing=FAST),
    broken=[],
    server_clock=ServerClock(ahead_s=0.0, error_s=0.01, whole_seconds=False),
    here=JointMeasurement(
        members=["0", "1"],
        lags=[
            VisibilityLag(kind="created", actor="0", watcher="1", median_s=0.001, longest_s=0.002)
        ],
        noticed={"1": True},
    ),
)


def severities(results: Diagnosis | list[CheckResult]) -> dict[str, set[str]]:
    """By check, the severities of its results."""
    found: dict[str, set[str]] = {}
    for result in results.checks if isinstance(results, Diagnosis) else results:
        found.setdefault(result.check, set()).add(result.severity)
    return found


def checked(
    location: Location = LOCATION, tmpdir: Location = TMP, **changed: Any
) -> list[CheckResult]:
    measured = msgspec.structs.replace(MEASURED, **changed)
    return diagnosis.checks(Path("/nowhere/root"), location, tmpdir, measured, None)


def worst(results: list[CheckResult], check: str) -> Any:
    """The only result of that check that is not `ok`."""
    (one,) = [each for each in results if each.check == check and each.severity != "ok"]
    return one


def across(**changed: Any) -> JointMeasurement:
    return msgspec.structs.replace(MEASURED.here, members=["a", "b"], **changed)


def test_a_directory_for_a_new_root_is_measured(tmp_path: Path) -> None:
    root = tmp_path / "scratch" / "root"
    told = jobspec_json("doctor", "--root", root, code=None)
    assert told["schema"] == 1 and told["place"]["path"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []  # not even the root
    here = told["measured"]["here"]
    assert len(here["members"]) == 4 and here["silent"] == []
    (won,) = here["races"]
    assert (won["doubled"], won["unclaimed"], sum(won["won"])) == (0, 0, won["files"])
    assert won["losers"] == {"ENOENT": 3 * won["files"]}
    kinds = ("created", "renamed away", "replaced")
    measured = {(lag["kind"], lag["actor"], lag["watcher"]) for lag in here["lags"]}
    assert measured == {(kind, "0", watcher) for kind in kinds for watcher in ("1", "2", "3")}
    assert all(0 <= lag["longest_s"] < 1 and not lag["missed"] for lag in here["lags"])
    assert set(here["noticed"].values()) == {mounts.is_local(tmp_path)}
    assert abs(told["measured"]["server_clock"]["ahead_s"]) < 2
    assert told["measured"]["broken"] == []
    assert told["advice"]["heartbeat_s"] == 15 and told["advice"]["lease_s"] == 150
    bad = [check for check in told["checks"] if check["verdict"] == "bad"]
    assert [check["check"] for check in bad if check["check"] != "space"] == []


def test_text_output_for_an_existing_queue(tmp_path: Path) -> None:
    root = queue_at(tmp_path, lease_s=1.0, heartbeat_s=0.2).paths.root
    before = sorted(tmp_path.rglob("*"))
    done = jobspec("doctor", "--root", root, "--seconds", "4", code=None)
    assert sorted(tmp_path.rglob("*")) == before
    assert "a jobspec queue, safe and writable" in done.stdout
    assert "lease 1 s: live workers may be mistaken for dead ones" in done.stdout
    assert "`jobspec doctor --apply` sets heartbeat 15 s, lease 150 s" in done.stdout
    assert "recommended: heartbeat 15 s, lease 150 s" in done.stdout


def test_no_line_is_wider_than_the_terminal(tmp_path: Path) -> None:
    root = queue_at(tmp_path, lease_s=1.0, heartbeat_s=0.2).paths.root
    done = jobspec("doctor", "--root", root, "--seconds", "2", code=None, COLUMNS="80")
    lines = [line for line in done.stdout.splitlines() if "/" not in line]  # a path is not broken
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(" " * 23 + "hint: ") for line in lines)


def test_a_root_that_others_may_write_to_is_bad(tmp_path: Path) -> None:
    root = Queue.create(tmp_path / "root").paths.root
    (root / "queue").chmod(0o757)
    done = jobspec("doctor", "--root", root, "--seconds", "4", code=1)
    assert "others may write to it" in done.stdout and "chmod o-w" in done.stdout
    (root / "queue").chmod(0o755)
    tmp_path.chmod(0o777)
    told = diagnosis.checks(root, probes.location_of(root), TMP, None, None)
    assert "chmod +t" in worst(told, "root").hint
    tmp_path.chmod(0o1777)
    told = diagnosis.checks(root, probes.location_of(root), TMP, None, None)
    assert severities(told)["root"] == {"ok"}


def test_a_directory_that_is_not_writable_is_reported() -> None:
    done = jobspec("doctor", "--root", "/proc/none", code=1)
    assert "/proc is not writable" in done.stdout and "hint: " in done.stdout


def test_leftovers_of_a_killed_doctor_are_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    left = tempfiles.beside(tmp_path / "doctor-across-gone-0123abcd")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    left.mkdir()
    told = examine(tmp_path, seconds=4)
    assert told.measured is not None
    assert list(tmp_path.iterdir()) == []


# --- across hosts


def hosts(directory: Path, *names: str, patience_s: float = 2.5) -> list[JointMeasurement]:
    """What processes measure that wait for each other, as on several hosts."""

    def participate(name: str) -> Any:
        member = Member(directory, "across", name, patience_s)
        return msgspec.to_builtins(member.participate(len(names), 20.0))

    measured = race([partial(participate, name) for name in names])
    return msgspec.convert(measured, list[JointMeasurement])


def test_missing_peers_are_reported(tmp_path: Path) -> None:
    left = tempfiles.beside(tmp_path / "doctor-across-dead-ffffffff")
    left.mkdir()  # of a killed process: it makes no `seen` file
    assert Member(tmp_path, "across", "a", 1.0).participate(2, 0.5) is None
    assert list(tmp_path.iterdir()) == [left]
    told = checked(missed_peers="the other host did not come")
    assert "within a minute" in worst(told, "visibility").hint


def test_three_hosts_get_the_result_of_the_first(tmp_path: Path) -> None:
    left = tempfiles.beside(tmp_path / "doctor-across-a-00000000")
    left.mkdir()  # it would lead, were it alive
    first, *others = hosts(tmp_path, "c", "b", "node 1")
    assert all(other == first for other in others)
    assert first.members == ["b", "c", "node-1"] and first.silent == []
    assert {(lag.actor, lag.watcher) for lag in first.lags} == {("b", "c"), ("b", "node-1")}
    assert all(lag.missed == 0 and 0 < (lag.longest_s or 0.0) < 1 for lag in first.lags)
    (one,) = first.races
    assert (one.actor, one.doubled, one.unclaimed) == ("b", 0, 0)
    assert sum(one.won) == one.files and len(one.won) == 3
    assert first.noticed == dict.fromkeys(first.members, mounts.is_local(tmp_path))
    assert list(tmp_path.iterdir()) == [left]


def test_members_that_stop_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow = Member._follow

    def follow_unless_b(self: Member, *arguments: Any) -> JointMeasurement:
        return JointMeasurement() if self.name == "b" else follow(self, *arguments)

    monkeypatch.setattr(Member, "_follow", follow_unless_b)
    leader, _, other = hosts(tmp_path, "a", "b", "c", patience_s=0.3)
    assert leader == other
    assert leader.silent == ["b"] and leader.races == [] and set(leader.noticed) == {"a", "c"}
    missed = {(lag.kind, lag.watcher): lag.missed for lag in leader.lags}
    assert missed == {("created", "b"): 1, ("created", "c"): 0}
    assert "b did not answer" in worst(checked(across=leader), "visibility").message
    monkeypatch.setattr(Member, "_lead", lambda *_: JointMeasurement())
    assert hosts(tmp_path, "a", "c", patience_s=0.3)[1] == JointMeasurement(
        members=["a", "c"], silent=["a"]
    )
    assert list(tmp_path.iterdir()) == []


def test_content_that_stays_old_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receive, first = Member._receive, dict[tuple[Member, str], Any]()

    def receive_first(self: Member, key: str, name: str, kind: Any) -> Any:
        seen = receive(self, key, name, kind)
        return first.setdefault((key, name), seen) if seen is not None else None

    monkeypatch.setattr(Member, "_receive", receive_first)
    for measured in hosts(tmp_path, "a", "b", patience_s=0.5):
        assert measured.silent == [] and len(measured.races) == 1
        missed = {lag.kind: lag.missed for lag in measured.lags}
        assert missed == {"created": 0, "renamed away": 0, "replaced": 1}
        told = worst(checked(across=measured), "visibility").message
        assert "late or never" in told and "replaced not seen in time" in told


@pytest.mark.parametrize("lost", [False, True])
def test_errors_of_a_rename_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.parent.name != "race":
            return rename(path, target)
        if lost:
            rename(path, target)
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(Path, "rename", fail)
    (one,) = hosts(tmp_path, "a", "b")[0].races
    assert one.lost_replies == (one.files if lost else 0)
    assert one.unclaimed == (0 if lost else one.files)
    assert one.losers == ({"ENOENT": one.files} if lost else {"EPERM": 2 * one.files})


LAG_S = 0.02


@contextlib.contextmanager
def mirrored(one: Path, other: Path) -> Iterator[None]:
    """Two directories kept alike by copying, late: a filesystem that has no atomic rename."""
    stop = threading.Event()

    def copy_for_ever() -> None:
        while not stop.wait(LAG_S):
            for source, target, whose in ((one, other, "a"), (other, one, "b")):
                for seat in source.glob(f".tmp-*-doctor-across-{whose}-*"):
                    copy_tree(seat, target / seat.name)
                for seat in target.glob(f".tmp-*-doctor-across-{whose}-*"):
                    if not (source / seat.name).exists():
                        shutil.rmtree(seat, ignore_errors=True)

    thread = threading.Thread(target=copy_for_ever)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def copy_tree(source: Path, target: Path) -> None:
    """Make `target` like `source`; what changes meanwhile is copied next time."""
    with contextlib.suppress(OSError):
        target.mkdir(exist_ok=True)
        here, there = ({path.name for path in each.iterdir()} for each in (source, target))
        for name in there - here:
            path = target / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in sorted(here, key=lambda name: (source / name).stat().st_mtime_ns):
            path = source / name
            if stat.S_ISDIR(path.stat().st_mode):
                copy_tree(path, target / name)
            elif name not in there or name == "content":
                shutil.copyfile(path, target / name)


def test_a_late_filesystem_without_atomic_rename_is_bad(tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        root.mkdir()
    with mirrored(*roots):
        command = [sys.executable, "-m", "jobspec.cli", "doctor", "--json", "--seconds", "8"]
        command += ["--wait-for", "2"]
        started = [
            subprocess.Popen(
                [*command, "--root", str(root), "--peer", root.name],
                env=environment(),
                stdout=subprocess.PIPE,
                text=True,
            )
            for root in roots
        ]
        answers = [
            (json.loads(process.communicate()[0]), process.returncode) for process in started
        ]
    for told, code in answers:
        assert code == 1
        found = told["measured"]["across"]
        assert sorted(found["members"]) == ["a", "b"]
        created = [lag["longest_s"] for lag in found["lags"] if lag["kind"] == "created"]
        assert len(created) == 1 and LAG_S / 4 < created[0] < 2
        assert any(race["doubled"] > 100 for race in found["races"])
        words = [check["told"] for check in told["checks"] if check["verdict"] == "bad"]
        assert any("two winners" in each for each in words)
        assert told["measured"]["here"]["races"][0]["doubled"] == 0
    assert [list(root.iterdir()) for root in roots] == [[], []]


# --- what follows from figures


def test_a_good_filesystem_has_no_findings() -> None:
    assert set().union(*severities(checked()).values()) == {"ok"}


def test_a_late_view_makes_the_lease_longer_and_the_polls_rarer() -> None:
    late = [VisibilityLag(kind="created", actor="a", watcher="b", median_s=60.0, longest_s=61.0)]
    measured = msgspec.structs.replace(MEASURED, across=across(lags=late))
    told = diagnosis.recommend(LOCATION, measured, 300.0)
    assert told.lease_s >= 2 * (15 + 61) + 30 and told.poll_s >= 61
    assert told.notifications is False
    assert diagnosis.recommend(LOCATION, MEASURED, 2.5).lease_s == 150


def test_changes_that_were_not_seen_are_bad_and_unknown() -> None:
    late = [
        VisibilityLag(
            kind="replaced", actor="a", watcher="b", median_s=None, longest_s=None, missed=1
        )
    ]
    found = across(lags=late)
    assert "not seen in time" in worst(checked(across=found), "visibility").message
    measured = msgspec.structs.replace(MEASURED, across=found)
    assert "larger --seconds" in diagnosis.recommend(LOCATION, measured, 2.5).why
    silent = across(lags=[], silent=["b"])
    assert "b did not answer" in worst(checked(across=silent), "visibility").message


def test_a_slow_rename_makes_the_heartbeat_slower() -> None:
    slow = Timing(count=2, median_s=2.0, longest_s=3.0)
    costs = msgspec.structs.replace(MEASURED.costs, rename=slow)
    told = diagnosis.recommend(LOCATION, msgspec.structs.replace(MEASURED, costs=costs), 2.5)
    assert told.heartbeat_s == 60 and told.lease_s >= 600
    assert "is the server busy" in worst(checked(costs=costs), "cost").hint


def test_format_is_compared_with_what_is_recommended() -> None:
    told = diagnosis.recommend(LOCATION, MEASURED, 2.5)
    (short,) = diagnosis.compare(Format(heartbeat_s=1.0, lease_s=10.0), told)
    assert short.severity == "warn" and "lease 150 s" in (short.hint or "")
    (well,) = diagnosis.compare(Format(), told)
    assert well.severity == "ok"
    assert list(diagnosis.compare(None, told)) == []


def test_clocks_room_names_and_mounts() -> None:
    behind = ServerClock(ahead_s=-90.0, error_s=0.5, whole_seconds=True)
    assert "90 s behind" in worst(checked(server_clock=behind), "clock").message
    ahead = ServerClock(ahead_s=40.0, error_s=15.0, whole_seconds=True)
    assert severities(checked(server_clock=ahead))["clock"] == {"ok"}  # it may be 25 s
    full = msgspec.structs.replace(LOCATION, room=FreeSpace(free_gib=0.2, free_inodes=3))
    assert severities(checked(full))["space"] == {"bad", "warn"}
    encrypted = msgspec.structs.replace(LOCATION, longest_name=143)
    assert "the queue needs 191" in worst(checked(encrypted), "names").message
    soft = msgspec.structs.replace(LOCATION, options=["rw", "soft"])
    assert "hard mount" in worst(checked(soft), "filesystem").hint
    far = msgspec.structs.replace(TMP, local=False)
    assert "a directory on the node's disk" in worst(checked(tmpdir=far), "tmpdir").hint


def test_unexpected_errors_of_losers_are_a_warning() -> None:
    odd = RaceResult(actor="0", files=5, won=[3, 2], doubled=0, unclaimed=0, lost_replies=1,
               losers={"ENOENT": 4, "EPERM": 1})  # fmt: skip
    told = checked(here=msgspec.structs.replace(MEASURED.here, races=[odd]))
    assert severities(told)["race"] == {"ok", "warn"}
    nobody = msgspec.structs.replace(odd, unclaimed=2)
    told = checked(here=msgspec.structs.replace(MEASURED.here, races=[nobody]))
    assert "2 have none" in worst(told, "race").message


def test_notifications_that_do_not_come_mean_polling() -> None:
    local = msgspec.structs.replace(LOCATION, local=True)
    deaf = msgspec.structs.replace(MEASURED.here, noticed={"1": False})
    assert "--poll" in worst(checked(local, here=deaf), "notifications").hint
    told = diagnosis.recommend(local, msgspec.structs.replace(MEASURED, here=deaf), 2.5)
    assert told.notifications is False
    assert diagnosis.recommend(local, MEASURED, 2.5).notifications is True
    others = across(noticed={"b": False})
    assert "--poll" in worst(checked(local, across=others), "notifications").hint
    assert severities(checked(LOCATION, across=others))["notifications"] == {"ok"}


def test_a_long_tmpdir_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    done = jobspec("doctor", "--root", tmp_path, "--seconds", "4", code=None, TMPDIR=str(deep))
    assert "is too long: socket paths in it" in done.stdout and "TMPDIR=/tmp" in done.stdout


def test_the_worker_has_the_same_limits() -> None:
    assert disk.SOCKET_PATH_MAX == probes.SOCKET_PATH_MAX
    assert disk.ENGINE_SOCKET_LEN == probes.ENGINE_SOCKET
    tmp = disk.short_tmp()
    tmp.rmdir()
    assert len(f"/{tmp.name}") == probes.WORKER_TMP


def test_every_missing_guarantee_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(probes.broken_promises(tmp_path)) == []
    for name in ("_replaces", "_refuses_nonempty", "_syncs_directories", "_links"):
        monkeypatch.setattr(probes, name, lambda space: False)
    told = list(probes.broken_promises(tmp_path))
    assert len(told) == 4
    assert severities(checked(broken=told))["rename"] == {"bad"}


def test_the_mount_table_is_read() -> None:
    assert mounts.mount_of(Path("/proc/self")).kind == "proc"
    assert not mounts.is_local(Path("/proc"))
    assert mounts.mount_of(Path("/no/such/path")) == mounts.mount_of(Path("/"))
