"""The train phase of an audited run: `python -m worker.audit.observed_training ATTEMPT_DIR`.

It runs `worker.training.train` and changes nothing that is computed. It notes which rows each step
trains, keeps every checkpoint, saves after a number of steps instead of a number of seconds, and
waits at the point where it is to be killed.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from jobspec.records import base as records
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, CheckpointPaths, epoch_of
from worker.audit import kills
from worker.audit.kills import AuditPaths, Orders, TrainedStep
from worker.program import run_program

_ROWS = "audited_rows"


def main() -> None:
    """Observe the training of the attempt that the command line names."""
    # As `python -m` would, but without its `main`; the libraries are imported here, in its way.
    train = runpy.run_module("worker.training.train", run_name="observed")
    Observer(AttemptPaths(Path(sys.argv[1]).absolute()), int(os.environ["RANK"])).install()
    train["main"]()


class Observer:
    """Notes what one rank of one attempt does."""

    def __init__(self, attempt: AttemptPaths, rank: int) -> None:
        self._paths = AuditPaths.of_attempt(attempt.dir)
        orders = records.read(self._paths.orders, Orders)
        assert orders is not None, "written before the worker starts"
        self._orders = orders
        self._rank = rank
        self._trained = self._paths.trained(attempt.number, rank)
        self._step = 0  # the step that is being trained, or was trained last

    def install(self) -> None:
        """Wrap the functions of the training that are observed."""
        from worker.checkpoints import directories, integrity
        from worker.training.dataset import StepDataset
        from worker.training.trainer import RowTrainer
        from worker.training.training_run import TrainingRun

        every = self._orders.save_every
        _replace(TrainingRun, "wants_save", lambda run: run.trainer.state.global_step % every == 0)
        _wrap(StepDataset, "__getitem__", self._with_rows)
        _wrap(RowTrainer, "training_step", self._training_step)
        _wrap(RowTrainer, "summed_loss", self._summed_loss)
        _wrap(RowTrainer, "_save_optimizer_and_scheduler", self._before(kills.BEFORE_SHARDS))
        _wrap(RowTrainer, "_save_rng_state", self._before(kills.AFTER_SHARDS))
        _wrap(integrity, "publish_manifest", self._publish_manifest)
        _wrap(directories, "publish_directory", self._publish_directory)

    def _with_rows(self, original: Callable[..., Any], dataset: Any, step: Any) -> Any:
        rows = tuple(tuple(micro.rows) if micro.weight else () for micro in step.micros)
        return original(dataset, step) | {_ROWS: rows}

    def _training_step(
        self, original: Callable[..., Any], trainer: Any, model: Any, inputs: Any, *rest: Any
    ) -> Any:
        self._step = trainer.state.global_step + 1
        digests = tuple(
            zlib.crc32(micro["targets"].numpy(force=True).tobytes(), _tokens(micro))
            for micro in inputs["micros"]
        )
        step = TrainedStep(step=self._step, rows=inputs[_ROWS], digests=digests)
        with self._trained.open("ab") as stream:
            stream.write(records.encode_line(step))
        return original(trainer, model, inputs, *rest)

    def _summed_loss(
        self, original: Callable[..., Any], trainer: Any, model: Any, inputs: Any
    ) -> Any:
        loss = original(trainer, model, inputs)
        if model.training:
            self._wait_at(kills.IN_STEP)
        return loss

    def _before(self, point: str) -> Callable[..., Any]:
        def wrapped(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._wait_at(point)
            return original(*args, **kwargs)

        return wrapped

    def _publish_manifest(
        self, original: Callable[..., Any], checkpoint: CheckpointPaths, manifest: Any
    ) -> Any:
        self._wait_at(kills.BEFORE_COMPLETE)
        published = original(checkpoint, manifest)
        keep(checkpoint.dir, self._paths.kept / checkpoint.dir.name)
        self._wait_at(kills.AFTER_SAVE)
        return published

    def _publish_directory(self, original: Callable[..., Any], partial: Path, path: Path) -> Any:
        if epoch_of(path) is not None:
            self._wait_at(kills.IN_WEIGHTS)
        return original(partial, path)

    def _wait_at(self, point: str) -> None:
        """Wait to be killed if this is the point, step and rank of the order."""
        kill = self._orders.kill
        if kill is None or (kill.point, kill.step, kill.rank) != (point, self._step, self._rank):
            return
        fs.publish(self._paths.reached, msgspec.json.encode(kill))
        while True:
            time.sleep(60.0)


def keep(directory: Path, kept: Path) -> None:
    """Keep the files of a complete checkpoint, by hard links: nothing writes to them any more."""
    if kept.exists():
        return
    for file in sorted(directory.rglob("*")):
        if file.is_file():
            copy = kept / file.relative_to(directory)
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, copy)


def _tokens(micro: dict[str, Any]) -> int:
    return zlib.crc32(micro["input_ids"].numpy(force=True).tobytes())


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Let calls of `owner.name` go to `wrapper`, with the original function first."""
    original = getattr(owner, name)
    _replace(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))


def _replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


if __name__ == "__main__":
    run_program(main)
