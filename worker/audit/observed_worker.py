"""A worker whose train phase is observed: `python -m worker.audit.observed_worker OPTIONS`.

It is the worker of `python -m worker` with the same options. Only the module of its train phase is
replaced, by `worker.audit.observed_training`, which runs the same training.
"""

from __future__ import annotations

import dataclasses
import os
import runpy
import signal

from jobspec.records import phases as names
from worker import phases
from worker.process.rank_launcher import die_with_parent
from worker.program import run_program

OBSERVED = "worker.audit.observed_training"


def main() -> None:
    """Replace the module of the train phase, then be the worker, and end with the audit."""
    die_with_parent(signal.SIGKILL, os.getppid())
    phases.PHASES = tuple(
        dataclasses.replace(entry, module=OBSERVED) if entry.info is names.TRAIN else entry
        for entry in phases.PHASES
    )
    runpy.run_module("worker", run_name="__main__")


if __name__ == "__main__":
    run_program(main)
