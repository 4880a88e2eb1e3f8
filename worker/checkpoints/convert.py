"""Before training on another number of ranks: `python -m worker.checkpoints.convert ATTEMPT_DIR`.

DeepSpeed's ZeRO-2 and ZeRO-3 states are cut for the ranks that wrote them. DeepSpeed's own
converter puts every parameter's weight and moments together (a *universal* checkpoint), from which
each rank of any number takes its part; nothing is rounded. The state it came from goes only when
the new one is sealed.

Source: deepspeed.checkpoint.ds_to_universal.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import msgspec

from jobspec.errors import DiskFull
from jobspec.storage import fs
from worker.checkpoints import directories, integrity
from worker.checkpoints.integrity import Conversion, Seal
from worker.phase import Phase, run

_SMALL = 1 << 28  # bytes of a state below which helper processes cost more than they save
_NOT_KEPT = ("COMPLETE", "latest", "zero_to_fp32.py")


def main() -> None:
    run("convert", body)


def body(phase: Phase) -> int:
    """Convert the newest state whose every byte is as it was sealed; damaged ones go."""
    world = msgspec.json.decode(phase.paths.manifest.read_bytes())["plan"]["world_size"]
    for state in directories.states(phase.paths):
        wrong = integrity.fault(state, hashes=True)  # before anything is unpickled
        sealed = integrity.read_seal(state)
        if wrong is None and sealed is not None:
            if not sealed.fits(world):
                convert(phase, state, sealed)
            break
        sys.stderr.write(f"convert: not resumed from {state.name}: it {wrong}\n")
        directories.discard(state, phase.paths)
    phase.finish({"world_size": world})
    return 0


def convert(phase: Phase, state: Path, sealed: Seal) -> Path:
    """Make `step-<n>.universal` of `step-<n>`, seal it, and only then drop what it came from.

    Raises:
        DiskFull: the space it takes at its height is not free; nothing was written.
    """
    started = time.monotonic()
    require_space(phase.paths.checkpoints, sealed.conversion_space)
    partial = state.with_name(f".{state.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tag = (state / "latest").read_text().strip()
    _merge(state / tag, partial / f"{tag}_universal", sealed)
    for file in state.iterdir():
        # Ranks' random states fit no other number of ranks: training seeds those anew.
        if file.is_file() and file.name not in _NOT_KEPT and "rng_state" not in file.name:
            shutil.copyfile(file, partial / file.name)
    files = integrity.hash_files(partial, integrity.files_of(partial), sync=True)
    done = Conversion(
        from_ranks=sealed.world,
        seconds=time.monotonic() - started,
        size=sum(file.size for file in files.values()),
    )
    integrity.seal(partial, msgspec.structs.replace(sealed, converted=done, files=files))
    universal = state.with_name(state.name + directories.UNIVERSAL)
    partial.rename(universal)
    fs.sync_dir(universal.parent)
    directories.discard(state, phase.paths)
    return universal


def require_space(directory: Path, size: int) -> None:
    """Raise DiskFull unless `size` bytes are free at `directory`."""
    free = shutil.disk_usage(directory).free
    if free < size:
        raise DiskFull(
            f"another number of devices needs the resume state converted: {size / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} are free",
            file=directory,
            hint="free space, or let a worker with as many devices as before take the job",
        )


def _merge(source: Path, target: Path, sealed: Seal) -> None:
    from deepspeed.checkpoint import ds_to_universal

    processes = 1 if sealed.size < _SMALL else _processes(sealed)
    ds_to_universal.main(
        argparse.Namespace(
            input_folder=str(source),
            output_folder=str(target),
            num_extract_workers=processes,
            num_merge_workers=processes,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,  # without it ZeRO-2 states are refused
        )
    )
    if sealed.zero_stage == 3:
        _trim(target / "zero" / "optimizer_state.pt")


def _trim(path: Path) -> None:
    """Drop the first rank's shard from what every rank is to read: steps and settings are left."""
    import torch

    kept = torch.load(path, map_location="cpu", weights_only=False)
    inner = kept["optimizer_state_dict"]
    inner["state"] = {number: {"step": one["step"]} for number, one in inner["state"].items()}
    kept.pop("fp32_flat_groups", None)
    torch.save(kept, path)


def _processes(sealed: Seal) -> int:
    """Helpers that each hold one rank's shard in memory: half of what is free may be theirs."""
    import psutil

    largest = max(file.size for file in sealed.files.values())
    fitting = int(psutil.virtual_memory().available / 2 // max(largest, 1))
    return max(1, min(fitting, sealed.world, len(os.sched_getaffinity(0))))


if __name__ == "__main__":
    main()
