"""Bundles of strangers: whatever they hold is rejected with its place, and nothing is written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.bundle import read_bundle, tar_gz, verification, worker_checks
from jobspec.bundle.read_bundle import BundleLimits
from jobspec.errors import JobspecError
from jobspec.storage.layout import BundlePaths
from tests.support.bundles import BENCHMARK, DEMO, edit, nested, sign, unpack
from tests.support.commands import jobspec


@pytest.fixture
def bundle(tmp_path: Path) -> BundlePaths:
    return unpack(tmp_path / "given")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything has to be written, and gone afterwards."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def refused(place: Path, limits: BundleLimits | None = None) -> str:
    """The message for a bundle; nothing is left of it anywhere."""
    before = sorted(place.parent.parent.rglob("*"))
    with pytest.raises(JobspecError) as error, read_bundle.opened(place, limits or BundleLimits()):
        pass
    assert sorted(place.parent.parent.rglob("*")) == before
    return str(error.value)


def packed(directory: Path, *entries: tarfile.TarInfo, data: bytes = b"x") -> Path:
    """A tar of a stranger's, as our own programs would write each entry."""
    buffer = io.BytesIO()
    for entry in entries:
        if entry.isreg():
            entry.size = len(data)
        buffer.write(entry.tobuf(tarfile.USTAR_FORMAT))
        if entry.isreg():
            buffer.write(data + bytes(-len(data) % 512))
    buffer.write(bytes(1024))
    return compressed(directory, buffer.getvalue())


def compressed(directory: Path, tar: bytes) -> Path:
    place = directory / "packed" / "x.bundle.tar.gz"
    place.parent.mkdir(exist_ok=True)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(tar) + packer.flush()
    end = zlib.crc32(tar).to_bytes(4, "little") + (len(tar) % 2**32).to_bytes(4, "little")
    place.write_bytes(bytes.fromhex("1f8b08000000000000ff") + body + end)
    return place


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (entry("x/../../escaped"), "../../escaped: a path that leads out of the bundle"),
        (entry("/etc/cron.d/x"), "`/etc/cron.d/x`: is not in the directory of the bundle"),
        (entry("x//etc/passwd"), "/etc/passwd: an absolute path"),
        (entry("../x/y"), "`../x/y`: is not in the directory of the bundle"),
        (entry("x/a\\b"), "`a\\b` is no name for a file of a bundle"),
        (entry("x/.hidden"), "`.hidden` is no name"),
        (entry("x/-rf"), "`-rf` is no name"),
        (entry("x/a/b/c/d/e/f/g/h/i"), "its path is too long"),
        (entry("x/spec.json", tarfile.SYMTYPE, "/etc/passwd"), "`x/spec.json`: is a symbolic link"),
        (entry("x/spec.json", tarfile.LNKTYPE, "x/y"), "`x/spec.json`: is a hard link"),
        (entry("x/null", tarfile.CHRTYPE), "`x/null`: is a device"),
        (entry("x/disk", tarfile.BLKTYPE), "`x/disk`: is a device"),
        (entry("x/pipe", tarfile.FIFOTYPE), "`x/pipe`: is a pipe"),
        (entry("x/d", tarfile.DIRTYPE), "`x/d`: is a directory"),
        (entry("x/p", tarfile.XHDTYPE), "is an entry of type b'x'"),
        (entry("x/l", tarfile.GNUTYPE_LONGNAME), "is an entry of type b'L'"),
        (entry("x/s", tarfile.GNUTYPE_SPARSE), "is an entry of type b'S'"),
    ],
)
def test_entries_of_a_tar(tmp_path: Path, made: tarfile.TarInfo, expected: str) -> None:
    assert expected in refused(packed(tmp_path, made))


def test_two_directories_and_two_files_of_one_name(tmp_path: Path) -> None:
    assert "`y/b`: is not in the directory" in refused(packed(tmp_path, entry("x/a"), entry("y/b")))
    assert "a: a second file of the name" in refused(packed(tmp_path, entry("x/a"), entry("x/a")))
    assert "A: a second file of the name `a`" in refused(
        packed(tmp_path, entry("x/a"), entry("x/A"))
    )


def test_a_decompression_bomb_is_noticed_while_it_is_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x/attempts/1/metrics.jsonl")
    header.size = 300 * 2**20
    tar = header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size) + bytes(1024)
    place = compressed(tmp_path, tar)
    assert place.stat().st_size < 400_000
    assert "which is not believed" in refused(place)
    huge = tarfile.TarInfo("x/spec.json")
    huge.size = 7 * 2**30
    lies = compressed(tmp_path, huge.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    assert "spec.json: is too large: 7,516,192,768 bytes" in refused(lies)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (BundleLimits(files=5), "more than 5 files"),
        (BundleLimits(file=1000), "is too large"),
        (BundleLimits(record=100), ".json: is too large"),
        (BundleLimits(total=20_000), "is too large"),
    ],
)
@pytest.mark.parametrize("as_tar", [True, False])
def test_limits(bundle: BundlePaths, limits: BundleLimits, expected: str, as_tar: bool) -> None:
    assert expected in refused(DEMO if as_tar else bundle.dir, limits)


def test_a_tar_that_ends_early_or_goes_on(tmp_path: Path) -> None:
    place = packed(tmp_path, entry("x/a"))
    data = place.read_bytes()
    place.write_bytes(data[:-20])
    assert "x.bundle.tar.gz" in refused(place) and "too early" in refused(place)
    place.write_bytes(data + b"more")
    assert "the checksum is not that of the content" in refused(place)
    assert "not a gzip file" in refused(compressed_by_another(tmp_path))


def compressed_by_another(directory: Path) -> Path:
    place = directory / "packed" / "x.tar.gz"
    with tarfile.open(place, "w:gz") as tar:
        tar.addfile(entry("x/a"))
    return place


def link(bundle: BundlePaths) -> None:
    bundle.spec.rename(bundle.dir / "other")
    bundle.spec.symlink_to("/etc/passwd")


def hard_link(bundle: BundlePaths) -> None:
    os.link(bundle.spec, bundle.dir.parent.parent / "also")


def linked_directory(bundle: BundlePaths) -> None:
    (bundle.dir / "attempts" / "2").symlink_to("/etc")


def pipe(bundle: BundlePaths) -> None:
    os.mkfifo(bundle.dir / "attempts" / "1" / "eval.fifo")


def missing(bundle: BundlePaths) -> None:
    bundle.attempt(1).metrics.unlink()


def additional(bundle: BundlePaths) -> None:
    (bundle.dir / "attempts" / "1" / "run.log").write_text("hello\n")


def pickled(bundle: BundlePaths) -> None:
    model = bundle.attempt(1).final_model
    model.mkdir()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/x'\ntR.")
    sign(bundle)


def program(bundle: BundlePaths) -> None:
    (bundle.dir / "conftest.py").write_text("raise SystemExit")
    sign(bundle)


def replace(name: str, data: bytes) -> Callable[[BundlePaths], None]:
    def change(bundle: BundlePaths) -> None:
        (bundle.dir / name).write_bytes(data)
        sign(bundle)

    return change


def changed(name: str, **fields: object) -> Callable[[BundlePaths], None]:
    return lambda bundle: edit(bundle, name, lambda value: value.update(fields))


DEEP = b"[" * 100_000 + b"]" * 100_000
OBJECTS = b'{"a":' * 500 + b"1" + b"}" * 500
GENERATIONS = f"{BENCHMARK}/generations-00000.jsonl"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (link, "spec.json: is a symbolic link"),
        (hard_link, "spec.json: has 2 names: it is a hard link"),
        (linked_directory, "attempts/2: is a symbolic link"),
        (pipe, "attempts/1/eval.fifo: is a device, pipe or socket"),
        (missing, "attempts/1/metrics.jsonl: missing; line 11 of manifest-sha256.txt"),
        (additional, "attempts/1/run.log: an additional file"),
        (pickled, "attempts/1/final_model/pytorch_model.bin: is no file that a bundle has"),
        (program, "conftest.py: is no file that a bundle has"),
        (lambda b: b.spec.unlink(), "spec.json: missing"),
        (lambda b: b.sums.unlink(), "manifest-sha256.txt: missing"),
        (replace("spec.json", DEEP), "spec.json: Expected `object`"),
        (replace("attempts/1/manifest.json", DEEP), "attempts/1/manifest.json: "),
        (replace("attempts/1/metrics.jsonl", OBJECTS + b"\n"), "metrics.jsonl, line 1: nested"),
        (replace("attempts/1/metrics.jsonl", b"{}\n[1]\n"), "metrics.jsonl, line 2: Expected"),
        (replace("attempts/1/metrics.jsonl", b'{"loss":NaN}\n'), "metrics.jsonl, line 1: not"),
        (replace("attempts/1/end.json", b"\xff\xfe"), "attempts/1/end.json: not valid JSON"),
        (replace("attempts/1/train.log", b"a\0b"), "train.log, character 2: a NUL character"),
        (replace("attempts/1/train.log", b"\xff"), "train.log, byte 1: not UTF-8"),
        (replace(GENERATIONS, b'{"question":1}\n'), "00000.jsonl, line 1, $.question: Expected"),
        (changed("attempts/1/train.json", steps="many"), "train.json, $.steps: Expected `int`"),
        (changed("spec.json", train={"learning_rate": "high"}), "spec.json, $.train.learning_rate"),
        (changed("spec.json", surprise=1), "spec.json, $: Object contains unknown field"),
        (changed("bundle.json", job=7), "bundle.json: not what a bundle says"),
        (changed("bundle.json", format=99), "bundle.json, $.format: a bundle of format 99"),
        (changed("bundle.json", attempt=3), "attempts/3/result.json: missing"),
    ],
)
def test_files_of_a_directory(
    bundle: BundlePaths, change: Callable[[BundlePaths], None], expected: str
) -> None:
    change(bundle)
    assert expected in refused(bundle.dir)


def test_lines_of_the_sums(bundle: BundlePaths) -> None:
    before = bundle.sums.read_text()
    first, *others = before.splitlines(keepends=True)
    for text, expected in {
        first + before: "line 2: names",
        "".join([*others, first]): "the paths are not sorted",
        before[:-1]: "the last line has no end",
        before + "../../etc/passwd\n": f"line {len(others) + 2}: not a SHA-256",
        before + f"{'0' * 64}  ../../x\n": "the paths are not sorted",
        "0" * 64 + "  /etc/passwd\n" + before: "missing; line 1 of",
    }.items():
        bundle.sums.write_text(text)
        assert expected in refused(bundle.dir)


def test_a_crate_that_states_another_hash(bundle: BundlePaths) -> None:
    crate = json.loads(bundle.crate.read_text())
    (entity,) = [each for each in crate["@graph"] if each["@id"] == "spec.json"]
    entity["sha256"] = "0" * 64
    bundle.crate.write_text(json.dumps(crate))
    digest = hashlib.sha256(bundle.crate.read_bytes()).hexdigest()
    lines = bundle.sums.read_text().splitlines()
    lines = [
        f"{digest}  {line[66:]}" if line.endswith(BundlePaths.CRATE) else line for line in lines
    ]
    bundle.sums.write_text("\n".join(lines) + "\n")
    assert "ro-crate-metadata.json: has another SHA-256 for `spec.json`" in refused(bundle.dir)


def test_the_command_says_where(tmp_path: Path) -> None:
    place = packed(tmp_path, entry("x/../../escaped"))
    done = jobspec("verify", place, cwd=tmp_path, code=1)
    assert "error: ../../escaped: a path that leads out of the bundle" in done.stderr
    assert not (tmp_path.parent / "escaped").exists()


def test_a_tar_is_read_as_it_was_written(tmp_path: Path) -> None:
    place = tmp_path / "x.tar.gz"
    files = {f"x/{'n' * 90}/{'m' * 90}": b"long", "x/b": b"", "x/c": os.urandom(5000)}
    with place.open("wb") as stream:
        tar_gz.write(stream, ((n, len(d), io.BytesIO(d)) for n, d in files.items()))
    read = {
        n: b"".join(iter(lambda s=s: s.read(777), b"")) for n, _, s in tar_gz.read(place, 10**6, 99)
    }
    assert read == files


WRONG = (None, "", "../../x", -1, 2**70, 1e308, [], [None], {}, {"a": 1}, True)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        yield (*above, key)
        if isinstance(each, dict | list):
            yield from places(each, (*above, key))


def one_of_each(value: Any, chance: random.Random) -> Iterator[tuple[Any, ...]]:
    """The path of one value of each field, whichever row or item it is in."""
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for path in places(value):
        field = tuple("*" if isinstance(key, int) else key for key in path)
        found.setdefault(field, []).append(path)
    return map(chance.choice, found.values())


@pytest.mark.parametrize("seed", range(2))
def test_a_wrong_value_of_any_field_is_no_crash(
    bundle: BundlePaths, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused with its file, or does not matter, or something differs."""
    # Grading takes seconds, and reads only what was checked before.
    monkeypatch.setattr(worker_checks, "check_grades", lambda bundle: ())
    chance, done = random.Random(seed), 0
    for file in sorted(bundle.dir.rglob("*.json*")):
        name, before = file.relative_to(bundle.dir).as_posix(), file.read_bytes()
        if file == bundle.crate:
            continue
        read = [*map(json.loads, before.splitlines())] if name.endswith("l") else json.loads(before)
        for path in one_of_each(read, chance):
            edit(bundle, name, nested(*path, to=chance.choice(WRONG)))
            try:
                verification.verify(bundle.dir)
            except JobspecError as error:
                assert error.file is not None
            file.write_bytes(before)
            done += 1
    assert done > 300
