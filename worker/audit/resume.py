"""Audits a spec: trains it small, once undisturbed and once killed and resumed, and compares."""

from __future__ import annotations

import os
import time
from pathlib import Path

from jobspec.errors import JobspecError
from jobspec.records.audit import ResumeAudit
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths
from worker.audit import compare, kills
from worker.audit.runs import AuditedRun, Between, say
from worker.audit.shrink import EPOCHS, SAVE_EVERY, shrink
from worker.host.devices import visible_devices


def audit(
    spec: JobSpec,
    root: RootPaths,
    directory: Path,
    *,
    ranks: int,
    count: int,
    seed: int,
    between: Between | None = None,
) -> ResumeAudit:
    """Train a small version of `spec` twice below `directory`, and compare.

    Args:
        root: in whose cache a model of the hub is looked for.
        ranks: GPUs, or processes on the CPU.
        count: how often the second training is killed.
        seed: of the places of the kills.
        between: as in `AuditedRun.go`.

    Raises:
        JobspecError: the spec can't be trained here.
    """
    started = time.monotonic()
    devices = visible_devices(ranks)
    if not devices.on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed prints about it
    small, notes = shrink(spec, root, directory, ranks=ranks, on_gpu=devices.on_gpu)
    for note in notes:
        say(note)
    calm = AuditedRun(directory / "uninterrupted", small, ranks=ranks, save_every=SAVE_EVERY)
    calm.go()
    steps = calm.report.steps
    assert steps is not None
    most = min(kills.MOST_KILLS, (steps - 1) // SAVE_EVERY)
    if count > most:
        raise JobspecError(
            f"a training of {steps} steps can't be killed {count} times",
            hint=f"give --kills {most}; rows that are dropped make it shorter",
        )
    say(f"{steps} steps without interruption")
    drawn = kills.draw(
        count,
        seed=seed,
        ranks=ranks,
        steps=steps,
        save_every=SAVE_EVERY,
        steps_per_epoch=round(steps / EPOCHS),
    )
    killed = AuditedRun(directory / "killed", small, ranks=ranks, save_every=SAVE_EVERY, like=calm)
    killed.go(drawn, between=between)
    parts = compare.compare(calm, killed, ranks=ranks)
    common = compare.checkpoints_of(calm).keys() & compare.checkpoints_of(killed).keys()
    return ResumeAudit(
        spec=spec.name,
        identical=all(part.compared and not part.different for part in parts),
        ranks=ranks,
        seed=seed,
        steps=steps,
        checkpoints=tuple(sorted(common)),
        kills=tuple(killed.kills),
        parts=tuple(parts),
        shrunk=tuple(notes),
        seconds=time.monotonic() - started,
    )
