"""Watches a training that is built on Transformers' Trainer, for benchmarks/resume.py.

It changes nothing that is computed: it notes the rows and the loss of every micro-batch, and waits
to be killed at the point that `watch.json` names.
"""

from __future__ import annotations

import json
import time
import zlib
from pathlib import Path
from typing import Any

from transformers import Trainer

from benchmarks.resume import AFTER_SAVE, IN_SAVE, IN_STEP


class Watch:
    """Notes what the Trainer of this process does, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kill = json.loads((directory / "watch.json").read_text())

    def install(self) -> None:
        """Wrap the methods of Transformers' Trainer."""
        for name, wrapper in (
            ("training_step", self._training_step),
            ("_save_rng_state", self._save_rng_state),
            ("_save_checkpoint", self._save_checkpoint),
        ):
            _wrap(name, wrapper)

    def _training_step(self, original: Any, trainer: Any, model: Any, inputs: Any, *rest: Any,
                       **named: Any) -> Any:  # fmt: skip
        rows = [zlib.crc32(row.numpy().tobytes()) for row in rows_of(inputs)]
        loss = original(trainer, model, inputs, *rest, **named)
        self._wait_at(IN_STEP, trainer.state.global_step + 1)  # before the second micro-batch
        row = {"step": trainer.state.global_step + 1, "rows": rows, "loss": float(loss)}
        with (self._directory / "steps.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        return loss

    def _save_rng_state(self, original: Any, trainer: Any, *args: Any) -> None:
        self._wait_at(IN_SAVE, trainer.state.global_step)
        original(trainer, *args)

    def _save_checkpoint(self, original: Any, trainer: Any, *args: Any, **named: Any) -> None:
        original(trainer, *args, **named)
        self._wait_at(AFTER_SAVE, trainer.state.global_step)

    def _wait_at(self, point: str, step: int) -> None:
        if self._kill != {"point": point, "step": step}:
            return
        (self._directory / "reached").touch()
        while True:
            time.sleep(60.0)


def rows_of(inputs: dict[str, Any]) -> list[Any]:
    """The tokens of each row of a micro-batch, without padding; rows in one line are separated."""
    ids, positions = inputs["input_ids"].cpu(), inputs.get("position_ids")
    if positions is not None:
        starts = (positions[0] == 0).nonzero().flatten().tolist()
        return [ids[0, a:b] for a, b in zip(starts, [*starts[1:], ids.shape[1]], strict=True)]
    mask = inputs.get("attention_mask")
    return [row if mask is None else row[mask[at].cpu().bool()] for at, row in enumerate(ids)]


def _wrap(name: str, wrapper: Any) -> None:
    original = getattr(Trainer, name)
    setattr(Trainer, name, lambda *args, **named: wrapper(original, *args, **named))
