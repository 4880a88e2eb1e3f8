"""jobspec.storage.fs: directories, moves, links, and the permissions of what is created."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobspec.storage import fs
from tests.support.faulty_os import fails_with, faulty, loses_reply
from tests.support.paths import stems

OLD, NEW = b"old\n", b"new and longer\n" * 1000


def test_move_once_distinguishes_winner_and_loser(tmp_path: Path) -> None:
    source, mine, other = tmp_path / "a", tmp_path / "mine", tmp_path / "other"
    source.write_bytes(OLD)
    assert fs.move_once(source, other)
    assert not fs.move_once(source, mine)
    assert stems(tmp_path) == ["other"]


def test_move_once_finds_its_own_target_after_a_lost_reply(tmp_path: Path) -> None:
    source, mine = tmp_path / "a", tmp_path / "mine"
    source.write_bytes(OLD)
    with faulty(0, loses_reply, only=frozenset({"rename"})):
        assert fs.move_once(source, mine)


def test_move_once_raises_other_errors(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(OLD)
    with faulty(0, fails_with(errno.EIO), only=frozenset({"rename"})), pytest.raises(OSError):
        fs.move_once(source, tmp_path / "b")
    assert stems(tmp_path) == ["a"]


def test_place_dir_has_one_winner_and_removes_the_loser(tmp_path: Path) -> None:
    target = tmp_path / "job"
    for data, won in ((b"1", True), (b"2", False)):
        with fs.staged_dir(target, {"spec": (data, 0o444)}) as staged:
            assert fs.place_dir(staged, target) is won
    assert (target / "spec").read_bytes() == b"1"
    assert stems(tmp_path) == ["job"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
def test_place_dir_raises_other_errors(number: int, tmp_path: Path) -> None:
    target = tmp_path / "job"
    failing = faulty(0, fails_with(number), only=frozenset({"rename"}))
    with (
        pytest.raises(OSError, match="rename"),
        fs.staged_dir(target, {"spec": (b"1", 0o444)}) as staged,
        failing,
    ):
        fs.place_dir(staged, target)
    assert stems(tmp_path) == []


def test_a_directory_that_cannot_be_made_raises() -> None:
    with pytest.raises(FileNotFoundError):
        fs.make_dir(Path("/proc/none/below"))  # where mkdir says ENOENT, whatever is there


def test_a_directory_made_by_another_process_is_accepted(tmp_path: Path) -> None:
    def made_by_another(name: str, args: Sequence[Any], call: Callable[[], Any]) -> Any:
        Path(args[0]).mkdir()
        return call()

    # The third call: the first finds no parent, the second makes it.
    with faulty(2, made_by_another, only=frozenset({"mkdir"})) as fault:
        fs.make_dir(tmp_path / "a" / "b")
    assert fault.fired
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(("number", "raised"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_only_a_directory_that_can_not_be_synced_at_all_is_left_unsynced(
    number: int, raised: bool, tmp_path: Path
) -> None:
    expected = pytest.raises(OSError, match="fsync") if raised else contextlib.nullcontext()
    with faulty(0, fails_with(number), only=frozenset({"fsync"})), expected:
        fs.sync_dir(tmp_path)


def test_directories_take_their_parents_permissions(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    fs.make_dir(shared / "a" / "b")
    fs.make_dir(shared / "private", 0o700)
    assert stat.S_IMODE((shared / "private").stat().st_mode) == 0o700
    with fs.staged_dir(shared / "job", {"spec": (b"1", 0o444)}) as staged:
        fs.place_dir(staged, shared / "job")
    for path in (shared / "a", shared / "a" / "b", shared / "job"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o2775


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_modes_are_what_was_asked_for_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(umask)
    try:
        for mode in (0o444, 0o600, 0o644, 0o664):
            fs.publish(tmp_path / oct(mode), b"x", mode)
        fs.make_dir(tmp_path / "made")
        with fs.staged_dir(tmp_path / "placed", {"0o444": (b"x", 0o444)}) as staged:
            fs.place_dir(staged, tmp_path / "placed")
    finally:
        os.umask(before)
    found = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()}
    assert found.pop("made") == found.pop("placed") == oct(0o755)
    assert found == {name: name for name in found} and len(found) == 4
    assert oct(stat.S_IMODE((tmp_path / "placed/0o444").stat().st_mode)) == "0o444"


def test_a_directory_is_never_open_to_the_group_not_even_while_it_is_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(0)
    modes = list[int]()

    def look(name: str, args: Sequence[Any], call: Callable[[], Any]) -> None:
        call()
        modes.append(stat.S_IMODE(Path(args[0]).stat().st_mode))

    try:
        with faulty(0, look, only=frozenset({"mkdir"})):
            fs.make_dir(tmp_path / "made")
        with (
            faulty(0, look, only=frozenset({"mkdir"})),
            fs.staged_dir(tmp_path / "placed", {"file": (b"x", 0o644)}) as staged,
        ):
            fs.place_dir(staged, tmp_path / "placed")
    finally:
        os.umask(before)
    assert modes == [0o755, 0o755]


def test_exists_raises_other_errors(tmp_path: Path) -> None:
    assert fs.exists(tmp_path / "gone") is False
    with faulty(0, fails_with(errno.EIO), only=frozenset({"lstat"})), pytest.raises(OSError):
        fs.exists(tmp_path)


def test_lists_hide_dotfiles_and_only_list_names_forgives_absence(tmp_path: Path) -> None:
    for name in (".nfs0001", ".tmp-x", "seen"):
        (tmp_path / name).touch()
    assert fs.list_dir(tmp_path) == fs.list_names(tmp_path) == ["seen"]
    assert fs.list_names(tmp_path / "gone") == []
    with pytest.raises(FileNotFoundError):
        fs.list_dir(tmp_path / "gone")


def test_link_to_replaces_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "final_model"
    fs.link_to(link, "attempts/1/final_model")
    fs.link_to(link, "attempts/2/final_model")
    assert str(link.readlink()) == "attempts/2/final_model"
    assert stems(tmp_path) == ["final_model"]


def test_a_link_that_could_not_be_placed_leaves_nothing(tmp_path: Path) -> None:
    link = tmp_path / "final_model"
    link.symlink_to("attempts/1/final_model")
    failing = faulty(0, fails_with(errno.ENOENT), only=frozenset({"rename"}))
    with failing, pytest.raises(FileNotFoundError):
        fs.link_to(link, "attempts/2/final_model")
    assert stems(tmp_path) == ["final_model"]
    assert str(link.readlink()) == "attempts/1/final_model"
