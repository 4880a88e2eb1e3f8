"""Resume states as a run's ranks write and read them together. COMPLETE itself: `seals`.

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
from jobspec.storage import fs
from worker.checkpoints import directories, integrity
from worker.checkpoints.directories import WriteSpeed
from worker.checkpoints.integrity import Seal
from worker.checkpoints.progress import Course
from worker.phase import Phase

_PROBE_BYTES = 1 << 24  # a rank's; enough to see a disk, too little to wait for
_PRIME = 7919
_STATES_BYTES = 12  # a parameter: float32 weight and two moments


class ResumeStates:
    """One attempt's resume states. All ranks call every method, in the same order."""

    def __init__(self, phase: Phase, zero_stage: int) -> None:
        self._phase = phase
        self._paths = phase.paths
        self._zero_stage = zero_stage
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._saved_step: int | None = None
        self.saved_at = time.monotonic()

    def newest(self) -> tuple[Path, Seal] | None:
        """The newest state whose every byte is as it was sealed; damaged ones go.

        Nothing is unpickled before. All ranks get the same answer.

        Raises:
            JobspecError: it was made by another number of ranks and has not been converted.
        """
        names = [path.name for path in directories.states(self._paths)]
        for name in _from_first(names):
            path = self._paths.checkpoints / name
            wrong = integrity.fault(path, hashes=True, rank=self._rank, world=self._world)
            wrong = next((each for each in _from_all(wrong) if each is not None), None)
            if wrong is None:
                return path, self._taken_up(path)
            self._pass_over(path, wrong)
        return None

    def save(self, step: int, write: Callable[[Path], None], course: Course) -> None:
        """Write and seal the state of `step`; what it makes superfluous goes.

        Args:
            write: puts everything but our own counters below a directory; all ranks run it.
        """
        if step == self._saved_step:
            return
        started = time.monotonic()
        path = self._paths.checkpoints / f"step-{step}"
        write(path)
        if self._rank == 0:
            self._phase.flush()
            fs.publish(path / "course.json", msgspec.json.encode(course))
        dist.barrier()
        names = integrity.files_of(path)
        mine = [name for name in names if integrity.rank_of(name, self._world) == self._rank]
        hashed = _from_all(integrity.hash_files(path, mine, sync=True))
        if self._rank == 0:
            files = {name: found for each in hashed for name, found in each.items()}
            self._seal(path, files, started)
        dist.barrier()
        self._saved_step, self.saved_at = step, time.monotonic()
        course.saves_s.append(self.saved_at - started)

    def settle(self, path: Path, sealed: Seal, optimizer: Any, seed: int) -> None:
        """What DeepSpeed and the Trainer leave to do once other ranks' state is loaded.

        Args:
            optimizer: Accelerate's, around DeepSpeed's, around torch's.
        """
        if sealed.world != self._world:
            # Random states are a rank's own: after a change each draws anew, by seed and step.
            set_seed((seed + _PRIME * sealed.step + self._rank) % 2**32)
        if sealed.converted is None:
            return
        inner = optimizer.optimizer.optimizer
        fused = any(group.get("fused") for group in inner.param_groups)
        for parameter, state in inner.state.items():
            # ZeRO-3's loader gives all groups one step count, so that each adds to the others'; and
            # counts come from the host, where fused kernels can't use them.
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone().to(parameter.device if fused else "cpu")
        if self._zero_stage == 3:
            # It also gives all groups the settings of the first: of two, one has no weight decay.
            for group, saved in zip(inner.param_groups, _saved_groups(path), strict=True):
                group |= {name: value for name, value in saved.items() if name != "params"}

    def measure(self, model: torch.nn.Module) -> None:
        """Before there is a state: how fast this filesystem takes one, and so how long it will.

        The worker begins a stop that much before its end; the first save's own time replaces it.
        """
        trained = [each for each in model.parameters() if each.requires_grad]
        count = sum(getattr(each, "ds_numel", each.numel()) for each in trained)
        size = count * (_STATES_BYTES + trained[0].element_size())
        probe = min(_PROBE_BYTES, size // self._world + 1)
        seconds = max(_from_all(self._write(probe)))
        if self._rank == 0:
            speed = probe * self._world / max(seconds, 1e-6)
            found = WriteSpeed(size=size, bytes_per_s=speed, save_s=size / speed)
            fs.replace(directories.speed_file(self._paths), msgspec.json.encode(found))

    def _seal(self, path: Path, files: dict[str, Any], started: float) -> None:
        about = Seal(
            attempt=self._paths.number,
            step=directories.step_of(path) or 0,
            world=self._world,
            zero_stage=self._zero_stage,
            save_s=time.monotonic() - started,
            files=files,
        )
        integrity.seal(path, about)
        directories.prune(self._paths)
        directories.prune_earlier(self._phase.job, self._paths)

    def _taken_up(self, path: Path) -> Seal:
        sealed = integrity.read_seal(path)
        if sealed is None or not sealed.fits(self._world):
            made = sealed.world if sealed is not None else "?"
            raise JobspecError(
                f"was made by {made} ranks and is not converted for {self._world}",
                file=path,
                hint="`jobspec retry` takes it up again, with the conversion before it",
            )
        self._saved_step = sealed.step
        return sealed

    def _pass_over(self, path: Path, wrong: str) -> None:
        if self._rank == 0:
            sys.stderr.write(f"train: not resumed from {path.name}: it {wrong}\n")
            directories.discard(path, self._paths)
        dist.barrier()

    def _write(self, size: int) -> float:
        """Seconds this rank needs to write `size` bytes, synced."""
        self._paths.checkpoints.mkdir(parents=True, exist_ok=True)
        probe = self._paths.checkpoints / f".probe-{self._rank}"
        data = os.urandom(size)  # a filesystem that compresses must not look faster than it is
        started = time.monotonic()
        try:
            with fs.disk_full(probe), probe.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            probe.unlink(missing_ok=True)
        return time.monotonic() - started


def _saved_groups(path: Path) -> list[dict[str, Any]]:
    """The optimizer's groups of a converted ZeRO-3 state, with their settings."""
    file = next(path.glob("*/zero/optimizer_state.pt"))
    kept = torch.load(file, map_location="cpu", weights_only=False)
    return kept["optimizer_state_dict"]["param_groups"]


def _from_first(value: Any) -> Any:
    """The first rank's value, on all ranks."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def _from_all(value: Any) -> list[Any]:
    """Every rank's value, on all ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
