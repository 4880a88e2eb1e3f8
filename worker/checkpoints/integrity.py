"""What makes a resume state one: `COMPLETE`, with size and SHA-256 of every file. No torch.

Files made by DeepSpeed are pickles, so they are loaded from this job's own directories alone, owner
and hash checked. Several processes may share the hashing, by who wrote a file or by size.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from jobspec.records import base as records
from jobspec.records.base import Record
from jobspec.storage import fs

_BLOCK = 1 << 22
_OF_RANK = re.compile(r"(?:zero_pp_rank_|rng_state_)(\d+)")


class FileSeal(Record, frozen=True, kw_only=True):
    """One file of a resume state: bytes and SHA-256."""

    size: int
    sha256: str


class Conversion(Record, frozen=True, kw_only=True):
    """What it took to make a state fit any number of ranks; `size` in bytes on disk."""

    from_ranks: int
    seconds: float
    size: int


class Seal(Record, frozen=True, kw_only=True):
    """`COMPLETE`: what a resume state holds, who wrote it, and with how many ranks.

    Attributes:
        save_s: seconds from the first byte to the last file's hash.
    """

    attempt: int
    step: int
    world: int
    zero_stage: int
    save_s: float = 0.0
    converted: Conversion | None = None
    files: dict[str, FileSeal] = msgspec.field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())

    @property
    def conversion_space(self) -> int:
        """Bytes a conversion takes at its height, beside the state itself.

        All optimizer states twice (fragments, then whole parameters), the rest once; of ZeRO-3 the
        converter keeps the first rank's shard besides, until it is trimmed.
        """
        shards = [file.size for name, file in self.files.items() if "optim_states" in name]
        first = max(shards, default=0) if self.zero_stage == 3 else 0
        return self.size + sum(shards) + first

    def fits(self, world: int) -> bool:
        """Whether `world` ranks can take it up as it is. Unsharded states (ZeRO-0) fit any."""
        return self.converted is not None or self.world == world or self.zero_stage == 0


def files_of(path: Path) -> list[str]:
    """The files below a state, but for its seal; names relative to it."""
    return sorted(
        str(file.relative_to(path))
        for file in path.rglob("*")
        if file.is_file() and file.name != "COMPLETE"
    )


def rank_of(name: str, world: int) -> int:
    """The rank that wrote a file, by DeepSpeed's and the Trainer's names; the first for others."""
    match = _OF_RANK.search(name)
    return int(match[1]) if match and int(match[1]) < world else 0


def share_of(files: Mapping[str, FileSeal], rank: int, world: int) -> list[str]:
    """The files that `rank` reads when all ranks read a state: largest first, to the idlest."""
    loads = [0] * world
    mine: list[str] = []
    for name in sorted(files, key=lambda name: (-files[name].size, name)):
        idlest = loads.index(min(loads))
        loads[idlest] += files[name].size + 1
        if idlest == rank:
            mine.append(name)
    return mine


def hash_files(path: Path, names: Iterable[str], *, sync: bool) -> dict[str, FileSeal]:
    """Size and SHA-256 of files below `path`, several at a time; each fsynced if `sync`."""
    names = list(names)
    with ThreadPoolExecutor(max_workers=_threads()) as pool:  # hashlib lets go of the GIL
        found = pool.map(lambda name: _hash(path / name, sync=sync), names)
        return dict(zip(names, found, strict=True))


def seal(path: Path, about: Seal) -> Seal:
    """Write the COMPLETE of a state. From its publication on it is one to resume from.

    Args:
        about: with `files` hashed and fsynced already; where it has none, they are here.
    """
    if not about.files:
        files = hash_files(path, files_of(path), sync=True)
        about = msgspec.structs.replace(about, files=files)
    for directory in {file.parent for file in path.rglob("*")} | {path}:
        fs.sync_dir(directory)
    fs.publish(path / "COMPLETE", records.encode(about))
    return about


def read_seal(path: Path) -> Seal | None:
    """The seal of a resume state; None where it was never completed."""
    try:
        return msgspec.json.decode((path / "COMPLETE").read_bytes(), type=Seal)
    except (OSError, msgspec.MsgspecError):
        return None


def fault(path: Path, *, hashes: bool, rank: int = 0, world: int = 1) -> str | None:
    """What is wrong with a resume state; None when it is whole.

    Args:
        hashes: read every byte, rather than compare sizes alone.
        rank: of `world` ranks that share the reading; each sees the faults of its share.
    """
    sealed = read_seal(path)
    if sealed is None:
        return "has no COMPLETE marker"
    for name, expected in sealed.files.items():
        try:
            status = (path / name).stat()
        except OSError:
            return f"`{name}` is missing"
        if status.st_size != expected.size:
            return f"`{name}` has {status.st_size} bytes, not {expected.size}"
        if status.st_uid != os.getuid():
            return f"`{name}` belongs to another user"
    mine = share_of(sealed.files, rank, world) if hashes else []
    found = hash_files(path, mine, sync=False)
    changed = (name for name in mine if found[name] != sealed.files[name])
    return next((f"`{name}` differs from its SHA-256" for name in changed), None)


def _threads() -> int:
    """How many files to read at a time: this process's share of the node's cores."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    return int(share) if share.isdigit() and share != "0" else os.cpu_count() or 1


def _hash(file: Path, *, sync: bool) -> FileSeal:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
        if sync:
            os.fsync(stream.fileno())
        size = stream.tell()
    return FileSeal(size=size, sha256=digest.hexdigest())
