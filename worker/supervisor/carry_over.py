"""What a new attempt takes over from the earlier ones: finished phases, weights, resume states.

RACE: an attempt that was reaped may still run and write in its own directory. So nothing is used
where it lies: directories are renamed into the new attempt first and looked at afterwards.
"""

from __future__ import annotations

import json
from pathlib import Path

from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths, JobPaths, epoch_of
from worker.checkpoints import directories
from worker.data import dataset_cache


def inherit(job: JobPaths, attempt: AttemptPaths, root: Path) -> list[str]:
    """Make `attempt` start where the earlier ones ended.

    Returns:
        A line for people about each thing taken over or found damaged.
    """
    if attempt.number == 1:
        return []
    earlier = [job.attempt(number) for number in range(attempt.number - 1, 0, -1)]
    said: list[str] = []
    if _prepared(earlier, attempt, root):
        said.append("prepared rows of an earlier attempt are kept")
    if _trained(earlier, attempt):
        return [*said, "training had finished: its final_model is kept"]
    checkpoint, damaged = directories.carry_over(job, attempt)
    said += [f"not resumed from: {line}" for line in damaged]
    if checkpoint is not None:
        said.append(f"resumes from {checkpoint.dir.name}")
    _collect_epochs(earlier, attempt)
    return said


def _prepared(earlier: list[AttemptPaths], attempt: AttemptPaths, root: Path) -> bool:
    for past in earlier:
        data = _read(past.done("prepare"))
        # Whole, and of this version's layout.
        if data is not None and dataset_cache.find(root / json.loads(data)["dir"]) is not None:
            fs.publish(attempt.done("prepare"), data)
            return True
    return False


def _trained(earlier: list[AttemptPaths], attempt: AttemptPaths) -> bool:
    summary = next((data for past in earlier if (data := _read(past.done("train")))), None)
    if summary is None:
        return False
    if not any(fs.move_once(past.final_model, attempt.final_model) for past in earlier):
        return False
    fs.publish(attempt.done("train"), summary)
    return True


def _collect_epochs(earlier: list[AttemptPaths], attempt: AttemptPaths) -> None:
    """Epochs' weights, made once, go along with the attempt that is worked on."""
    for past in earlier:
        for name in fs.list_names(past.checkpoints):
            source, target = past.checkpoints / name, attempt.checkpoints / name
            if epoch_of(source) is not None and not target.exists():
                fs.move_once(source, target)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() or None
    except FileNotFoundError:
        return None
