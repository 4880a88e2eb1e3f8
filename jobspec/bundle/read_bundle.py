"""Reads a bundle from a stranger: a directory or a `.tar.gz`.

Nothing is believed. Names, kinds, sizes and counts are checked while reading, every file against
its SHA-256 and every record against its type. What is read is copied to a temporary directory; the
weights are only hashed. Nothing is executed, and no file can hold a pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jobspec.bundle import crate, sums, tar_gz
from jobspec.bundle.about import FORMAT, AboutBundle, HashedFile
from jobspec.bundle.file_types import check_type
from jobspec.errors import JobspecError
from jobspec.records.base import State
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import BundlePaths

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+=@ -]*")
_LONGEST_PATH = 240
_DEEPEST = 8
_CHUNK = 1 << 20
WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class BundleLimits:
    """What a bundle may have, at most. Sizes in bytes; weights are hashed, and count apart."""

    files: int = 20_000
    file: int = 512 * 2**20
    record: int = 64 * 2**20
    total: int = 4 * 2**30
    weights: int = 4 * 2**40
    ratio: int = 200


DEFAULT_LIMITS = BundleLimits()


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle whose files all have the SHA-256 and the type that they should have.

    Attributes:
        place: what was named.
        paths: the copy in a temporary directory, without weights.
        files: every file, by path.
        fingerprint: the SHA-256 of the sums.
    """

    place: Path
    paths: BundlePaths
    files: dict[str, HashedFile]
    about: AboutBundle
    spec: JobSpec
    fingerprint: str


@contextlib.contextmanager
def opened(place: Path, limits: BundleLimits = DEFAULT_LIMITS) -> Generator[CheckedBundle]:
    """A checked copy of a bundle, until the block ends.

    Raises:
        JobspecError: something is wrong; it names the file and the place in it.
    """
    with tempfile.TemporaryDirectory(prefix="jobspec-bundle-") as directory:
        copy = Path(directory)
        members = _in_directory(place) if place.is_dir() else _in_tar(place, limits)
        files = _copy(members, copy, limits)
        yield _checked(place, BundlePaths(copy), files)


Member = tuple[str, int, tar_gz.Readable]


def _in_tar(place: Path, limits: BundleLimits) -> Iterator[Member]:
    """The files of a tar, without the directory that all of them are in."""
    if not place.is_file():
        raise JobspecError("there is no such bundle", file=place)
    top = ""
    for name, size, stream in tar_gz.read(place, limits.total + limits.weights, limits.ratio):
        first, slash, rest = name.partition("/")
        if not slash or first != (top or first) or not _NAME.fullmatch(first):
            raise JobspecError(
                "is not in the directory of the bundle", file=place.name, place=f"`{name}`"
            )
        top = first
        yield rest, size, stream


def _in_directory(place: Path) -> Iterator[Member]:
    """The files below a directory. Links and everything else that is no file are refused."""
    waiting = [(place, "")]
    while waiting:
        directory, before = waiting.pop()
        for entry in sorted(os.scandir(directory), key=lambda each: each.name):
            name = f"{before}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                _check_name(f"{name}/x")
                waiting.append((Path(entry.path), f"{name}/"))
                continue
            yield _open_member(Path(entry.path), name)


def _open_member(path: Path, name: str) -> Member:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "a device, pipe or socket"
        raise JobspecError(f"is {kind}, not a file", file=name)
    if found.st_nlink > 1:
        raise JobspecError(f"has {found.st_nlink} names: it is a hard link", file=name)
    return name, found.st_size, _OnDisk(path)


class _OnDisk:
    """A file that is opened when it is read."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._path = path

    def read(self, most: int, /) -> bytes:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        data = os.read(self._descriptor, most)
        if not data:
            os.close(self._descriptor)
        return data


def _copy(members: Iterator[Member], copy: Path, limits: BundleLimits) -> dict[str, HashedFile]:
    """Copy and hash every file as far as the limits allow."""
    files: dict[str, HashedFile] = {}
    folded: dict[str, str] = {}
    total = weights = 0
    for name, size, stream in members:
        _check_name(name)
        other = folded.setdefault(name.casefold(), name)
        if name in files or other != name:
            raise JobspecError(f"a second file of the name `{other}`", file=name)
        if len(files) >= limits.files:
            raise JobspecError(f"more than {limits.files:,} files", file=name)
        is_weights = name.endswith(WEIGHTS)
        most = limits.weights - weights if is_weights else _most(name, limits, total)
        if size > most:
            raise JobspecError(f"is too large: {size:,} bytes, at most {most:,}", file=name)
        read, digest = _read(name, stream, None if is_weights else copy / name, most)
        files[name] = HashedFile(path=name, size=read, sha256=digest)
        weights, total = (weights + read, total) if is_weights else (weights, total + read)
    return files


def _most(name: str, limits: BundleLimits, total: int) -> int:
    single = limits.record if name.endswith(".json") else limits.file
    return min(single, limits.total - total)


def _check_name(name: str) -> None:
    """Raise JobspecError unless a path stays in its directory on every system."""
    parts = name.split("/")
    if len(name) > _LONGEST_PATH or len(parts) > _DEEPEST:
        raise JobspecError("its path is too long", file=name[:_LONGEST_PATH])
    if name.startswith("/"):
        raise JobspecError("an absolute path", file=name)
    if ".." in parts:
        raise JobspecError("a path that leads out of the bundle", file=name)
    for part in parts:
        if not _NAME.fullmatch(part):
            raise JobspecError(f"`{part}` is no name for a file of a bundle", file=name)


def _read(name: str, stream: tar_gz.Readable, target: Path | None, most: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with (Path(os.devnull) if target is None else target).open("wb") as file:
        while data := stream.read(_CHUNK):
            size += len(data)
            if size > most:
                raise JobspecError(f"is too large: more than {most:,} bytes", file=name)
            digest.update(data)
            file.write(data)
    return size, digest.hexdigest()


def _checked(place: Path, paths: BundlePaths, files: dict[str, HashedFile]) -> CheckedBundle:
    for needed in (BundlePaths.SUMS, BundlePaths.CRATE, BundlePaths.ABOUT, paths.spec.name):
        if needed not in files:
            raise JobspecError("missing", file=needed, hint="is this a bundle of jobspec?")
    listed = sums.parse(paths.sums.read_bytes())
    described = crate.hashes(paths.crate.read_bytes())
    errors = list(_differences(files, listed, described))
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        first = errors[0]
        raise JobspecError(first.message + more, file=first.file, place=first.place)
    about = _about(paths)
    result = paths.attempt(about.attempt).result.relative_to(paths.dir).as_posix()
    if about.state == State.SUCCEEDED and result not in files:
        raise JobspecError("missing, although the job succeeded", file=result)
    for name in files:
        check_type(paths, name, about)
    _compare_crate(files, described)
    return CheckedBundle(
        place=place,
        paths=paths,
        files=files,
        about=about,
        spec=parsing.decode(paths.spec.read_bytes(), file=paths.spec.name),
        fingerprint=files[BundlePaths.SUMS].sha256,
    )


def _differences(
    files: dict[str, HashedFile], listed: dict[str, tuple[int, str]], described: dict[str, str]
) -> Iterator[JobspecError]:
    """What the files, the sums and the crate say differently. The odd one of the three is named."""
    for path, (line, sha256) in listed.items():
        if path not in files:
            yield JobspecError(
                f"missing; line {line} of {BundlePaths.SUMS} has its SHA-256", file=path
            )
        elif files[path].sha256 != sha256:
            found = files[path].sha256
            if described.get(crate.identifier(path)) == found:
                message = f"the SHA-256 of `{path}` is {found[:12]}…, not {sha256[:12]}…"
                yield sums.refused(message, line)
            else:
                message = f"changed: its SHA-256 is {found[:12]}…, not {sha256[:12]}…"
                where = f"line {line} of {BundlePaths.SUMS}"
                yield JobspecError(f"{message}, which {where} says", file=path)
    for path in sorted(files.keys() - listed.keys() - {BundlePaths.SUMS}):
        yield JobspecError(f"an additional file: {BundlePaths.SUMS} does not name it", file=path)


def _compare_crate(files: dict[str, HashedFile], described: dict[str, str]) -> None:
    own = {BundlePaths.SUMS, BundlePaths.CRATE}
    for path, each in files.items():
        if path not in own and described.get(crate.identifier(path)) != each.sha256:
            raise JobspecError(f"has another SHA-256 for `{path}`", file=BundlePaths.CRATE)


def _about(paths: BundlePaths) -> AboutBundle:
    try:
        about = msgspec.json.decode(paths.about.read_bytes(), type=AboutBundle)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise JobspecError(f"not what a bundle says: {error}", file=paths.about.name) from error
    if about.format != FORMAT:
        raise JobspecError(
            f"a bundle of format {about.format}; this jobspec reads format {FORMAT}",
            file=paths.about.name,
            place="$.format",
        )
    return about
