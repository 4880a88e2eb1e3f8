"""The convert phase, before training continues on another number of ranks.

    python -m worker.checkpoints.convert ATTEMPT_DIR

DeepSpeed's ZeRO-2 and ZeRO-3 checkpoints are split by the ranks that wrote them. DeepSpeed's own
converter merges every parameter's weight and moments (a *universal* checkpoint), from which any
number of ranks can each load their part; nothing is rounded. The original is deleted only after the
converted checkpoint is complete.

Source: deepspeed.checkpoint.ds_to_universal.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import DiskFull
from jobspec.records import base as records
from jobspec.records import phases
from jobspec.records.checkpoint import CheckpointManifest, Conversion
from jobspec.records.manifest import Manifest
from jobspec.records.reports import ConvertReport
from jobspec.storage import fs
from jobspec.storage.layout import CheckpointPaths, partial_of
from worker.checkpoints import directories, integrity
from worker.phase import Phase, run
from worker.program import run_program

_ONE_PROCESS_BYTES = 1 << 28  # for a smaller checkpoint, helper processes cost more than they save
_NOT_COPIED = (CheckpointPaths.MANIFEST, CheckpointPaths.LATEST, "zero_to_fp32.py")


def main() -> None:
    run(phases.CONVERT, body)


def body(phase: Phase) -> int:
    """Convert the newest checkpoint that matches its hashes; delete damaged ones."""
    provenance = records.read(phase.paths.manifest, Manifest)
    assert provenance is not None and provenance.plan is not None, "written before this phase runs"
    world = provenance.plan.world_size
    for checkpoint in directories.list_checkpoints(phase.paths):
        damage = integrity.find_damage(checkpoint, hashes=True)  # before anything is unpickled
        manifest = integrity.read_manifest(checkpoint)
        if damage is None and manifest is not None:
            if not manifest.fits(world):
                convert(phase, checkpoint, manifest)
            break
        sys.stderr.write(f"convert: not resumed from {checkpoint.dir.name}: it {damage}\n")
        directories.discard(checkpoint.dir, phase.paths)
    phase.finish(ConvertReport(world_size=world))
    return 0


def convert(
    phase: Phase, checkpoint: CheckpointPaths, manifest: CheckpointManifest
) -> CheckpointPaths:
    """Write `step-<n>.universal`, complete it, then delete `step-<n>`.

    Raises:
        DiskFull: the space needed at the peak is not free; nothing was written.
    """
    started = time.monotonic()
    require_space(phase.paths.checkpoints, manifest.conversion_space)
    partial = CheckpointPaths(partial_of(checkpoint.dir))
    shutil.rmtree(partial.dir, ignore_errors=True)
    partial.dir.mkdir()
    tag = checkpoint.latest.read_text().strip()
    _merge(checkpoint.dir / tag, partial.dir / f"{tag}_universal", manifest)
    for file in checkpoint.dir.iterdir():
        # Random states belong to single ranks; training seeds new ones for another number.
        if file.is_file() and file.name not in _NOT_COPIED and "rng_state" not in file.name:
            shutil.copyfile(file, partial.dir / file.name)
    files = integrity.hash_files(partial.dir, integrity.files_of(partial.dir), sync=True)
    conversion = Conversion(
        from_ranks=manifest.world,
        seconds=time.monotonic() - started,
        size=sum(file.size for file in files.values()),
    )
    converted = msgspec.structs.replace(manifest, converted=conversion, files=files)
    integrity.publish_manifest(partial, converted)
    partial.dir.rename(checkpoint.universal)
    fs.sync_dir(checkpoint.dir.parent)
    directories.discard(checkpoint.dir, phase.paths)
    return CheckpointPaths(checkpoint.universal)


def require_space(directory: Path, size: int) -> None:
    """Raise DiskFull unless `size` bytes are free at `directory`."""
    free = shutil.disk_usage(directory).free
    if free < size:
        raise DiskFull(
            "the checkpoint must be converted for another number of devices, which needs "
            f"{size / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free",
            file=directory,
            hint="free space, or let a worker with as many devices as before continue the job",
        )


def _merge(source: Path, target: Path, manifest: CheckpointManifest) -> None:
    from deepspeed.checkpoint import ds_to_universal

    if manifest.moment_bits == 8:
        _dequantize_moments()
    processes = 1 if manifest.size < _ONE_PROCESS_BYTES else _processes(manifest)
    ds_to_universal.main(
        argparse.Namespace(
            input_folder=str(source),
            output_folder=str(target),
            num_extract_workers=processes,
            num_merge_workers=processes,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,  # without it ZeRO-2 checkpoints are refused
        )
    )
    if manifest.zero_stage == 3:
        _trim(target / "zero" / "optimizer_state.pt")


def _dequantize_moments() -> None:
    """Let DeepSpeed's converter read Adam's 8-bit moments in float32, so that it can divide them.

    They are as long as the weights beside them, from which the padding is already removed.
    """
    from deepspeed.checkpoint import constants
    from deepspeed.checkpoint.zero_checkpoint import ZeROCheckpoint

    def dequantize(reader: Any, shard: dict[str, Any]) -> None:
        saved = shard[constants.OPTIMIZER_STATE_DICT]
        weights = saved[constants.SINGLE_PARTITION_OF_FP32_GROUPS]
        for group, state in saved[constants.BASE_OPTIMIZER_STATE]["state"].items():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].dequantize()[: weights[group].numel()]

    patched: Any = ZeROCheckpoint
    patched._strip_tensor_paddings = dequantize


def _trim(path: Path) -> None:
    """Remove the first rank's shard from a file that every rank reads; keep steps and settings."""
    import torch

    saved = torch.load(path, map_location="cpu", weights_only=False)
    inner = saved["optimizer_state_dict"]
    inner["state"] = {number: {"step": one["step"]} for number, one in inner["state"].items()}
    saved.pop("fp32_flat_groups", None)
    torch.save(saved, path)


def _processes(manifest: CheckpointManifest) -> int:
    """How many helpers may each hold one rank's shard: together at most half of the free memory."""
    import psutil

    largest = max(file.size for file in manifest.files.values())
    fitting = int(psutil.virtual_memory().available / 2 // max(largest, 1))
    return max(1, min(fitting, manifest.world, len(os.sched_getaffinity(0))))


if __name__ == "__main__":
    run_program(main)
