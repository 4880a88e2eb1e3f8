"""What this machine can do, in at most ten lines, each gap with the command that closes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence

from jobspec import worker_command
from jobspec.checks import machine
from jobspec.cluster import detect
from jobspec.doctor.measurements import CheckResult
from jobspec.errors import JobspecError
from jobspec.records.answers import MachineFact

_CONTAINERS = ("apptainer", "singularity")


def summarize(checks: Sequence[CheckResult], filesystem: str) -> Iterator[MachineFact]:
    """The machine in a line per subject; the filesystem's checks are summed up in one.

    Args:
        checks: what was found out about the root's filesystem.
        filesystem: its type.
    """
    try:
        yield from machine.examine().facts
    except JobspecError as error:
        message = error.message.splitlines()[0]
        yield MachineFact(subject="packages", severity="bad", message=message, command=error.hint)
    yield _filesystem(checks, filesystem)
    yield _scheduler()
    yield _container()


def _filesystem(checks: Sequence[CheckResult], filesystem: str) -> MachineFact:
    counts = {kind: sum(check.severity == kind for check in checks) for kind in ("bad", "warn")}
    shown = f"{filesystem}: {len(checks)} checks"
    if counts["bad"]:
        message = f"{shown}, {counts['bad']} failed: see below"
        return MachineFact(subject="filesystem", severity="bad", message=message)
    if counts["warn"]:
        message = f"{shown}, {counts['warn']} with a warning: see below"
        return MachineFact(subject="filesystem", severity="warn", message=message)
    return MachineFact(subject="filesystem", severity="ok", message=f"{shown} passed")


def _scheduler() -> MachineFact:
    found = detect.scheduler()
    name = type(found).__name__
    if found.is_available:
        return MachineFact(subject="scheduler", severity="ok", message=name)
    return MachineFact(
        subject="scheduler",
        severity="warn",
        message=f"none ({name} is not installed here): start workers by hand",
        command="jobspec-worker --drain",
    )


def _container() -> MachineFact:
    command = os.environ.get(worker_command.WORKER_COMMAND)
    if command:
        message = f"workers run in `{command}`"
        return MachineFact(subject="container", severity="ok", message=message)
    program = next(filter(shutil.which, _CONTAINERS), None)
    if program is None:
        message = "none: workers use this Python environment"
        return MachineFact(subject="container", severity="ok", message=message)
    message = f"{program} is here, but workers use this Python environment"
    mend = f"export {worker_command.WORKER_COMMAND}='{program} exec --nv worker.sif python'"
    return MachineFact(subject="container", severity="ok", message=message, command=mend)
