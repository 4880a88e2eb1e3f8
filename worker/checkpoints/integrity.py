"""Whether a checkpoint is complete and unchanged: `COMPLETE` lists every file's size and SHA-256.

DeepSpeed's files are pickles. They are loaded only from this job's own directories, after their
owner and hashes have been checked. Several ranks can share the hashing: each hashes the files it
wrote after a save, and a share of equal size before a load. Imports no torch.
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
from jobspec.records.checkpoint import CheckpointManifest, FileDigest
from jobspec.storage import fs
from jobspec.storage.layout import CheckpointPaths

_BLOCK = 1 << 22
_RANK_IN_NAME = re.compile(r"(?:zero_pp_rank_|rng_state_)(\d+)")


def files_of(directory: Path) -> list[str]:
    """Every file below a checkpoint except its manifest; names relative to the directory."""
    return sorted(
        str(file.relative_to(directory))
        for file in directory.rglob("*")
        if file.is_file() and file.name != CheckpointPaths.MANIFEST
    )


def rank_of(name: str, world: int) -> int:
    """The rank that wrote a file, by DeepSpeed's and the Trainer's names; rank 0 for others."""
    match = _RANK_IN_NAME.search(name)
    return int(match[1]) if match and int(match[1]) < world else 0


def share_of(files: Mapping[str, FileDigest], rank: int, world: int) -> list[str]:
    """The files that `rank` hashes when all ranks verify a checkpoint together.

    Files are assigned from the largest to the smallest, each to the rank with the fewest bytes.
    """
    loads = [0] * world
    mine: list[str] = []
    for name in sorted(files, key=lambda name: (-files[name].size, name)):
        idlest = loads.index(min(loads))
        loads[idlest] += files[name].size + 1
        if idlest == rank:
            mine.append(name)
    return mine


def hash_files(directory: Path, names: Iterable[str], *, sync: bool) -> dict[str, FileDigest]:
    """Size and SHA-256 of files below `directory`, several at a time; each fsynced if `sync`."""
    names = list(names)
    with ThreadPoolExecutor(max_workers=_threads()) as pool:  # hashlib releases the GIL
        digests = pool.map(lambda name: _hash(directory / name, sync=sync), names)
        return dict(zip(names, digests, strict=True))


def publish_manifest(
    checkpoint: CheckpointPaths, manifest: CheckpointManifest
) -> CheckpointManifest:
    """Write a checkpoint's `COMPLETE`. Once it is published, the checkpoint can be resumed from.

    Args:
        manifest: its `files` must be hashed and fsynced; if it lists none, that is done here.
    """
    if not manifest.files:
        files = hash_files(checkpoint.dir, files_of(checkpoint.dir), sync=True)
        manifest = msgspec.structs.replace(manifest, files=files)
    for directory in {file.parent for file in checkpoint.dir.rglob("*")} | {checkpoint.dir}:
        fs.sync_dir(directory)
    fs.publish(checkpoint.manifest, records.encode(manifest))
    return manifest


def read_manifest(checkpoint: CheckpointPaths) -> CheckpointManifest | None:
    """A checkpoint's manifest; None if it was never completed."""
    try:
        return msgspec.json.decode(checkpoint.manifest.read_bytes(), type=CheckpointManifest)
    except (OSError, msgspec.MsgspecError):
        return None


def find_damage(
    checkpoint: CheckpointPaths, *, hashes: bool, rank: int = 0, world: int = 1
) -> str | None:
    """What is wrong with a checkpoint; None if it is complete and unchanged.

    Args:
        hashes: read every byte instead of comparing sizes only.
        rank: one of `world` ranks that share the reading; each reports damage in its share.
    """
    manifest = read_manifest(checkpoint)
    if manifest is None:
        return f"has no {CheckpointPaths.MANIFEST} marker"
    for name, expected in manifest.files.items():
        try:
            status = (checkpoint.dir / name).stat()
        except OSError:
            return f"`{name}` is missing"
        if status.st_size != expected.size:
            return f"`{name}` has {status.st_size} bytes, not {expected.size}"
        if status.st_uid != os.getuid():
            return f"`{name}` belongs to another user"
    mine = share_of(manifest.files, rank, world) if hashes else []
    digests = hash_files(checkpoint.dir, mine, sync=False)
    changed = (name for name in mine if digests[name] != manifest.files[name])
    return next((f"`{name}` differs from its SHA-256" for name in changed), None)


def _threads() -> int:
    """How many files to read at a time: this process's share of the node's cores."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    return int(share) if share.isdigit() and share != "0" else os.cpu_count() or 1


def _hash(file: Path, *, sync: bool) -> FileDigest:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
        if sync:
            os.fsync(stream.fileno())
        size = stream.tell()
    return FileDigest(size=size, sha256=digest.hexdigest())
