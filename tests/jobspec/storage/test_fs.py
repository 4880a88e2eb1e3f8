"""jobspec.storage.fs: files are published whole or not at all, and appended to in whole lines."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import DiskFull, RootError
from jobspec.storage import fs
from tests.support.faulty_os import (
    CALLS,
    FaultyOs,
    fails_with,
    faulty,
    killed_at,
    loses_reply,
    replaced_os,
)
from tests.support.paths import stems

OLD, NEW = b"old\n", b"new and longer\n" * 1000


def test_publish_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    fs.publish(target, OLD)
    fs.publish(target, NEW, mode=0o444)
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o444
    assert stems(tmp_path) == ["file.json"]


@pytest.mark.parametrize("files", [1, 2])
def test_publish_syncs_the_bytes_before_the_name_and_the_name_before_it_returns(
    files: int, tmp_path: Path
) -> None:
    order: list[str] = []
    data = {str(number): b"x" for number in range(files)}
    with noting(order):
        fs.publish_together(tmp_path, data)
    wanted = ["write"] * files + ["fsync"] * files + ["rename"] * files + ["fsync"]
    assert [name for name in order if name in wanted] == wanted
    assert stems(tmp_path) == sorted(data)


@contextlib.contextmanager
def noting(order: list[str]) -> Iterator[None]:
    """Calls of `jobspec.storage.fs` by name, in the order in which they are made."""

    class Noting:
        def __getattr__(self, name: str) -> Any:
            def called(*args: Any, **kwargs: Any) -> Any:
                order.append(name)
                return getattr(os, name)(*args, **kwargs)

            return called if name in CALLS else getattr(os, name)

    with replaced_os(Noting()):
        yield


def test_without_threads_everything_is_synced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", none_left)
    order: list[str] = []
    with noting(order):
        fs.publish_together(tmp_path, {"a": b"1", "b": b"2"})
    assert order.count("fsync") == 3
    assert stems(tmp_path) == ["a", "b"]


def test_a_file_that_can_not_be_synced_lets_none_of_its_set_appear(tmp_path: Path) -> None:
    for index in range(2):
        failing = faulty(index, fails_with(errno.EIO), only=frozenset({"fsync"}))
        with failing, pytest.raises(OSError, match="fsync"):
            fs.publish_together(tmp_path, {"a": b"1", "b": b"2"})
        assert stems(tmp_path) == []


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "torn"])
@pytest.mark.parametrize("how", [fs.publish, fs.replace])
def test_killed_anywhere_a_published_file_is_old_or_new(how, torn, tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    index, seen = 0, set[bytes]()
    while True:
        target.write_bytes(OLD)
        killed = killed_at(index, lambda: how(target, NEW), torn=torn)
        assert target.read_bytes() in (OLD, NEW)
        seen.add(target.read_bytes())
        assert fs.list_dir(tmp_path) == ["file.json"]
        swept = fs.sweep(tmp_path)
        assert len(swept) <= 1
        assert stems(tmp_path) == ["file.json"]
        if not killed:
            break
        index += 1
    assert seen == {OLD, NEW}
    assert index >= 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_full_disk_leaves_the_old_file_and_no_other(call, number, tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    target.write_bytes(OLD)
    with faulty(0, fails_with(number), only=frozenset({call})), pytest.raises(DiskFull) as caught:
        fs.publish(target, NEW)
    assert caught.value.file == str(target)
    assert ("quota" in caught.value.message) == (number == errno.EDQUOT)
    assert caught.value.hint
    assert target.read_bytes() == OLD
    assert stems(tmp_path) == ["file.json"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(DiskFull):
        fs.append(full, b"x" * 8192)


def test_publish_succeeds_when_only_the_reply_was_lost(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    with faulty(0, loses_reply, only=frozenset({"rename"})):
        fs.publish(target, NEW)
    assert target.read_bytes() == NEW


def test_publish_into_a_missing_directory_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fs.publish(tmp_path / "gone" / "file", b"x")


@pytest.mark.parametrize("write", [fs.touch, lambda path: fs.append(path, NEW)])
def test_a_file_that_another_node_creates_meanwhile_is_opened(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    """As MooseFS answers the slower one of two mounts."""
    file = tmp_path / "file"

    def too_late(name: str, args: Sequence[Any], call: Callable[[], Any]) -> int:
        file.write_bytes(OLD)
        raise FileExistsError(errno.EEXIST, "File exists", file)

    with faulty(0, too_late, only=frozenset({"open"})):
        write(file)
    assert file.read_bytes().startswith(OLD)


def test_nothing_leaves_a_descriptor_open(tmp_path: Path) -> None:
    file = tmp_path / "file"
    before = stems(Path("/proc/self/fd"))
    fs.publish(file, OLD)
    fs.append(file, NEW)
    fs.rewrite(file, OLD)
    fs.touch(file)
    fs.read(file)
    fs.sync_dir(tmp_path)
    assert stems(Path("/proc/self/fd")) == before


def test_a_short_read_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(NEW)

    def short(name: str, args: Sequence[Any], call: Callable[[], Any]) -> bytes:
        return os.read(args[0], 10)

    failing = contextlib.ExitStack()

    def short_then_fails(name: str, args: Sequence[Any], call: Callable[[], Any]) -> bytes:
        failing.enter_context(faulty(0, fails_with(errno.EIO), only=frozenset({"read"})))
        return os.read(args[0], 10)

    with faulty(0, short, only=frozenset({"read"})):
        assert fs.read(path) == NEW
    with (
        faulty(0, short_then_fails, only=frozenset({"read"})),
        failing,
        pytest.raises(OSError, match="read"),
    ):
        fs.read(path)
    assert fs.read(Path("/proc/self/stat"))  # whose size is said to be 0


def test_append_heals_a_torn_last_line(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    fs.append(rows, b'{"a": 1}\n')
    with rows.open("ab") as file:
        file.write(b'{"a": ')
    fs.append(rows, b'{"a": 2}')
    assert rows.read_bytes().endswith(b"\n")
    fs.append(rows, b'{"a": 3}\n')
    assert rows.read_bytes() == b'{"a": 1}\n{"a": \n{"a": 2}\n{"a": 3}\n'


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "torn"])
def test_killed_anywhere_appended_lines_stay_whole(torn, tmp_path: Path) -> None:
    index = 0
    while True:
        rows = tmp_path / f"{index}.jsonl"
        fs.append(rows, b"first\n")
        killed = killed_at(index, lambda rows=rows: fs.append(rows, b"second\n"), torn=torn)
        fs.append(rows, b"third\n")
        lines = rows.read_bytes().split(b"\n")
        assert lines[0] == b"first"
        assert lines[-2:] == [b"third", b""]
        if not killed:
            break
        index += 1
    assert index >= 3


def test_append_on_a_full_disk_writes_no_part_of_a_line(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    fs.append(rows, b"first\n")

    def half_then_full(name: str, args: tuple[int, bytes], call: object) -> int:
        return os.write(args[0], bytes(args[1])[:3])

    proxy = FaultyOs(0, half_then_full, only=frozenset({"write"}))
    inner = FaultyOs(1, fails_with(errno.ENOSPC), only=frozenset({"write"}))

    class Both:
        def __getattr__(self, name: str) -> object:
            if name == "write" and not proxy.fired:
                inner.count += 1
                return proxy.write
            return getattr(inner, name)

    with replaced_os(Both()), pytest.raises(DiskFull):
        fs.append(rows, b"second\n")
    assert proxy.fired and inner.fired
    assert rows.read_bytes() == b"first\n"


def test_rewrite_follows_a_file_and_never_makes_one(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    assert not fs.rewrite(entry, b"x")
    assert not entry.exists()
    entry.write_bytes(b"longer than before")
    assert fs.rewrite(entry, b"short")
    assert entry.read_bytes() == b"short"


def test_owned_reads_refuse_links_and_others_files(tmp_path: Path, monkeypatch) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"x")
    link.symlink_to(real)
    assert fs.read(real, owned=True) == fs.read(link) == b"x"
    with pytest.raises(OSError, match="symbolic links"):
        fs.read(link, owned=True)
    monkeypatch.setattr(os, "geteuid", lambda: real.stat().st_uid + 1)
    with pytest.raises(RootError, match=str(real)):
        fs.read(real, owned=True)
    assert fs.read(real) == b"x"
