"""Compares two audited runs: losses, rows, checkpoints and final weights, bit by bit."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from jobspec.records import base as records
from jobspec.records.audit import AuditedPart, Divergence
from jobspec.storage.layout import CheckpointPaths
from worker.audit.kills import TrainedStep
from worker.audit.leaves import differs, distance, first_difference, leaves
from worker.audit.runs import AuditedRun

LOSSES, ROWS = "losses", "row order"
OPTIMIZER, SCHEDULE, RANDOM = "optimizer state", "learning-rate schedule", "random state"
WEIGHTS, COUNTERS, FINAL = "checkpointed weights", "counters", "final weights"
PARTS = (LOSSES, ROWS, OPTIMIZER, SCHEDULE, RANDOM, WEIGHTS, COUNTERS, FINAL)
_METRICS = ("loss", "grad_norm", "learning_rate", "num_tokens", "trained_tokens")
# What a clock or the number of attempts decides.
_OF_THE_CLOCK = frozenset(
    {"train_s", "saves_s", "resumed_from", "peak_memory_gib", "conversions", "train_runtime"}
)
_MISSING = "missing"
_Key = tuple[int | None, str]  # step, place


class _Part:
    """Counts what was compared, and remembers the first difference."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._compared = self._different = 0
        self._largest: float | None = None
        self._first: tuple[int | None, str, Any, Any] | None = None

    def compare(self, key: _Key, one: Any, other: Any) -> None:
        self._compared += 1
        if not differs(one, other):
            self._note(0.0 if distance(one, other) == 0 else None)
            return
        self._different += 1
        self._note(distance(one, other))
        if self._first is None or _sooner(key[0], self._first[0]):
            inside, here, there = first_difference(one, other)
            self._first = (key[0], key[1] + inside, here, there)

    def _note(self, difference: float | None) -> None:
        if difference is not None:
            self._largest = max(self._largest or 0.0, difference)

    def result(self) -> AuditedPart:
        first = None
        if self._first is not None:
            step, place, one, other = self._first
            shown = [repr(each)[:200] for each in (one, other)]
            first = Divergence(step=step, place=place, uninterrupted=shown[0], resumed=shown[1])
        return AuditedPart(
            name=self.name,
            compared=self._compared,
            different=self._different,
            largest_difference=self._largest,
            first=first,
        )


def _sooner(step: int | None, than: int | None) -> bool:
    return step is not None and (than is None or step < than)


def compare(calm: AuditedRun, killed: AuditedRun, *, ranks: int) -> list[AuditedPart]:
    """Compare a run that was killed with one that was not, in the order of `PARTS`.

    Every step is compared as often as the killed run trained it.
    """
    parts = {name: _Part(name) for name in PARTS}
    _compare_all(parts[LOSSES], _metrics(calm), _metrics(killed))
    _compare_all(parts[ROWS], _rows(calm, ranks), _rows(killed, ranks))
    for step, one, other in _common_checkpoints(calm, killed):
        _compare_checkpoints(parts, step, one, other)
    _compare_models(parts[FINAL], calm, killed)
    return [part.result() for part in parts.values()]


def checkpoints_of(run: AuditedRun) -> dict[int, Path]:
    """The kept checkpoints, by step."""
    kept = [CheckpointPaths(path) for path in run.paths.kept.glob("step-*")]
    return {each.step: each.dir for each in sorted(kept, key=lambda each: each.step)}


def _common_checkpoints(calm: AuditedRun, killed: AuditedRun) -> Iterator[tuple[int, Path, Path]]:
    one, other = checkpoints_of(calm), checkpoints_of(killed)
    yield from ((step, one[step], other[step]) for step in one if step in other)


def _compare_all(
    part: _Part, calm: Mapping[_Key, list[Any]], killed: Mapping[_Key, list[Any]]
) -> None:
    """Compare each value of the killed run, which may have several of a step."""
    for key in sorted(calm.keys() | killed.keys(), key=lambda key: (key[0] or 0, key[1])):
        expected = calm.get(key, [_MISSING])[0]
        for found in killed.get(key, [_MISSING]):
            part.compare(key, expected, found)


def _metrics(run: AuditedRun) -> dict[_Key, list[Any]]:
    """Losses and what belongs to them, by step and name, from every attempt."""
    found: dict[_Key, list[Any]] = defaultdict(list)
    for number in run.attempts:
        for row in _json_lines(run.job.attempt(number).metrics):
            for name, value in row.items():
                if name in _METRICS or name.startswith(("eval_loss", "trained_tokens/")):
                    found[row["step"], name].append(value)
    return found


def _rows(run: AuditedRun, ranks: int) -> dict[_Key, list[Any]]:
    """The rows of each micro-batch and a digest of their tokens, by step and rank."""
    found: dict[_Key, list[Any]] = defaultdict(list)
    for number in run.attempts:
        for rank in range(ranks):
            for line in _lines(run.paths.trained(number, rank)):
                noted = records.parse(line, TrainedStep)
                if noted is None:
                    continue  # torn by the kill
                rows = [row for micro in noted.rows for row in micro]
                where = f"rows of rank {rank}"
                found[noted.step, where].append(tuple(rows))
                found[noted.step, f"tokens of rank {rank}"].append(noted.digests)
    return found


def _compare_checkpoints(parts: Mapping[str, _Part], step: int, one: Path, other: Path) -> None:
    names = sorted({str(file.relative_to(each)) for each in (one, other)
                    for file in each.rglob("*") if file.is_file()})  # fmt: skip
    for name in names:
        if name == CheckpointPaths.MANIFEST:
            continue
        loaded = [_load(each / name) for each in (one, other)]
        found = [dict(leaves(each)) for each in loaded]
        for path in dict.fromkeys([*found[0], *found[1]]):
            if _OF_THE_CLOCK.isdisjoint(path.replace("[", ".").split(".")):
                values = [each.get(path, _MISSING) for each in found]
                parts[_part_of(name, path)].compare((step, f"{name}: {path}"), *values)


def _part_of(name: str, path: str) -> str:
    """Which part a value of a checkpoint belongs to, by DeepSpeed's and the Trainer's names."""
    if "rng_state" in name:
        return RANDOM
    if "scheduler" in name or path.startswith("lr_scheduler"):
        return SCHEDULE
    if "optim_states" in name or path.startswith("optimizer"):
        return OPTIMIZER
    if path.startswith("module") or name.endswith(".safetensors"):
        return WEIGHTS
    return COUNTERS


def _load(file: Path) -> Any:
    """A checkpoint's file. Only files that this audit's own processes wrote are unpickled."""
    if not file.exists():
        return {}
    if file.suffix in (".pt", ".pth"):
        return torch.load(file, map_location="cpu", weights_only=False)
    if file.suffix == ".json":
        return json.loads(file.read_bytes())
    return {"bytes": file.read_bytes()}


def _compare_models(part: _Part, calm: AuditedRun, killed: AuditedRun) -> None:
    for name in ("final_model", "adapter"):
        one, other = (
            _tensors(getattr(run.job.attempt(run.attempts[-1]), name)) for run in (calm, killed)
        )
        for tensor in sorted(one.keys() | other.keys()):
            part.compare(
                (None, f"{name}: {tensor}"), one.get(tensor, _MISSING), other.get(tensor, _MISSING)
            )


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= safetensors.torch.load_file(file)
    return found


def _lines(file: Path) -> Iterable[bytes]:
    return file.read_bytes().splitlines() if file.exists() else ()


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in _lines(file):
        try:
            yield json.loads(line)
        except ValueError:
            continue  # torn by the kill
