"""Checkpoints as a run's ranks write and read them together.

Each rank hashes and fsyncs the files it wrote: they are in its node's memory, and on a network
filesystem only the writer's fsync counts. On load the ranks share the reading by size.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from transformers import set_seed

from jobspec.errors import JobspecError
from jobspec.estimates import memory
from jobspec.records.checkpoint import CheckpointManifest, TrainingProgress, WriteSpeed
from jobspec.spec.schema import TrainSpec
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import CheckpointPaths
from worker.checkpoints import directories, integrity
from worker.phase import Phase

_TEST_BYTES = 1 << 24  # per rank: enough to measure a disk, too little to delay a start
_PRIME = 7919


class DistributedCheckpoints:
    """One attempt's checkpoints. All ranks call every method, in the same order."""

    def __init__(self, phase: Phase, train: TrainSpec) -> None:
        self._phase = phase
        self._paths = phase.paths
        self._zero_stage = train.zero_stage
        self._moment_bits = 8 if train.optim == "adamw_8bit" else 32
        self._state_bytes = memory.state_bytes(train)
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._saved_step: int | None = None
        self.saved_at = time.monotonic()

    def newest(self) -> tuple[CheckpointPaths, CheckpointManifest] | None:
        """The newest checkpoint whose every byte matches its manifest; damaged ones are deleted.

        Nothing is unpickled before its hash was checked. All ranks get the same answer.

        Raises:
            JobspecError: it was made by another number of ranks and has not been converted.
        """
        names = [each.dir.name for each in directories.list_checkpoints(self._paths)]
        for name in _broadcast(names):
            checkpoint = CheckpointPaths(self._paths.checkpoints / name)
            damage = integrity.find_damage(
                checkpoint, hashes=True, rank=self._rank, world=self._world
            )
            damage = next((each for each in _gather(damage) if each is not None), None)
            if damage is None:
                return checkpoint, self._check_fits(checkpoint)
            self._reject(checkpoint, damage)
        return None

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        progress: TrainingProgress,
        *,
        group_elements: int | None,
    ) -> None:
        """Write and complete the checkpoint of `step`, then delete those it replaces.

        Args:
            write: writes everything but our own counters below a directory; all ranks run it.
            group_elements: as the manifest records it.
        """
        if step == self._saved_step:
            return
        started = time.monotonic()
        checkpoint = self._paths.checkpoint(step)
        write(checkpoint.dir)
        if self._rank == 0:
            self._phase.flush()
            fs.publish(checkpoint.progress, msgspec.json.encode(progress))
        dist.barrier()
        names = integrity.files_of(checkpoint.dir)
        mine = [name for name in names if integrity.rank_of(name, self._world) == self._rank]
        hashed = _gather(integrity.hash_files(checkpoint.dir, mine, sync=True))
        if self._rank == 0:
            files = {name: digest for each in hashed for name, digest in each.items()}
            manifest = CheckpointManifest(
                attempt=self._paths.number,
                step=checkpoint.step,
                world=self._world,
                zero_stage=self._zero_stage,
                group_elements=group_elements,
                moment_bits=self._moment_bits,
                save_s=time.monotonic() - started,
                files=files,
            )
            self._complete(checkpoint, manifest)
        dist.barrier()
        self._saved_step, self.saved_at = step, time.monotonic()
        progress.saves_s.append(self.saved_at - started)

    def finish_loading(
        self, checkpoint: CheckpointPaths, manifest: CheckpointManifest, optimizer: Any, seed: int
    ) -> None:
        """Do what DeepSpeed and the Trainer leave out when another number of ranks resumes.

        Args:
            optimizer: Accelerate's, which wraps DeepSpeed's, which wraps torch's.
        """
        if manifest.world != self._world:
            # Each rank has its own random state. After a change of their number, every rank seeds
            # a new one from the spec's seed and the step.
            set_seed((seed + _PRIME * manifest.step + self._rank) % 2**32)
        if manifest.converted is None:
            return
        inner = optimizer.optimizer.optimizer
        fused = any(group.get("fused") for group in inner.param_groups)
        for parameter, state in inner.state.items():
            # ZeRO-3's loader shares one step count among all groups, so that each group would
            # advance the others' count too. Also, the counts are loaded on the CPU, where fused
            # kernels can't use them.
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone().to(parameter.device if fused else "cpu")
        if self._zero_stage == 3:
            # It also gives all groups the first group's settings: weight decay would be applied to
            # the group that has none.
            for group, saved in zip(inner.param_groups, _saved_groups(checkpoint), strict=True):
                group |= {name: value for name, value in saved.items() if name != "params"}

    def measure_write_speed(self, model: torch.nn.Module) -> None:
        """Estimate how long the first save will take, from a test write on this filesystem.

        The worker sends the stop signal that much before its time ends. After the first save, the
        measured duration replaces the estimate.
        """
        trained = [each for each in model.parameters() if each.requires_grad]
        count = sum(getattr(each, "ds_numel", each.numel()) for each in trained)
        size = round(count * (self._state_bytes + trained[0].element_size()))
        test = min(_TEST_BYTES, size // self._world + 1)
        seconds = max(_gather(self._test_write(test)))
        if self._rank == 0:
            speed = test * self._world / max(seconds, 1e-6)
            estimate = WriteSpeed(size=size, bytes_per_s=speed, save_s=size / speed)
            fs.replace(self._paths.write_speed, msgspec.json.encode(estimate))

    def _complete(self, checkpoint: CheckpointPaths, manifest: CheckpointManifest) -> None:
        integrity.publish_manifest(checkpoint, manifest)
        directories.prune_checkpoints(self._paths)
        directories.prune_earlier_attempts(self._phase.job, self._paths)

    def _check_fits(self, checkpoint: CheckpointPaths) -> CheckpointManifest:
        manifest = integrity.read_manifest(checkpoint)
        if manifest is None or not manifest.fits(self._world):
            made = manifest.world if manifest is not None else "?"
            raise JobspecError(
                f"was made by {made} ranks and is not converted for {self._world}",
                file=checkpoint.dir,
                hint="`jobspec retry` starts another attempt, which converts it first",
            )
        self._saved_step = manifest.step
        return manifest

    def _reject(self, checkpoint: CheckpointPaths, damage: str) -> None:
        if self._rank == 0:
            sys.stderr.write(f"train: not resumed from {checkpoint.dir.name}: it {damage}\n")
            directories.discard(checkpoint.dir, self._paths)
        dist.barrier()

    def _test_write(self, size: int) -> float:
        """Seconds this rank needs to write and fsync `size` bytes."""
        self._paths.checkpoints.mkdir(parents=True, exist_ok=True)
        file = tempfiles.beside(self._paths.checkpoints / f"rank-{self._rank}")
        data = os.urandom(size)  # random, so that a compressing filesystem does not look faster
        started = time.monotonic()
        try:
            with fs.disk_full(file), file.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            file.unlink(missing_ok=True)
        return time.monotonic() - started


def _saved_groups(checkpoint: CheckpointPaths) -> list[dict[str, Any]]:
    """The optimizer's groups of a converted ZeRO-3 checkpoint, with their settings."""
    file = next(checkpoint.dir.glob("*/zero/optimizer_state.pt"))
    saved = torch.load(file, map_location="cpu", weights_only=False)
    return saved["optimizer_state_dict"]["param_groups"]


def _broadcast(value: Any) -> Any:
    """The first rank's value, on all ranks."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def _gather(value: Any) -> list[Any]:
    """Every rank's value, on all ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
