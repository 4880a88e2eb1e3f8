"""`jobspec doctor`: what this machine can do, and what a root's filesystem really does.

Everything happens in directories with temporary names beside the queue's own, which are removed
afterwards. What a killed run leaves is swept by the next one, or by `jobspec fsck`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from jobspec.doctor import diagnosis, probes, session, summary
from jobspec.doctor.measurements import Diagnosis, JointMeasurement, Measurements
from jobspec.errors import DiskFull, JobspecError
from jobspec.records import base as records
from jobspec.records.queue_files import Format
from jobspec.storage import fs, tempfiles
from jobspec.storage.layout import RootPaths

THREADS = 4  # that measure together on this host
_COME_S = 60.0  # how long to wait for other hosts


def examine(
    root: Path,
    *,
    seconds: float = 10.0,
    name: str | None = None,
    wait_for: int = 1,
    log: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Measure a root, or the directory that it would be made in. Leaves nothing behind.

    Args:
        root: an existing root, or a directory to become one.
        seconds: about how long it may take; each change is waited for up to a quarter of it.
        name: name of this run among those that measure together; the host's by default.
        wait_for: number of runs, on as many hosts, that measure together; 1 for this one alone.
        log: called with a message before anything that may take long.
    """
    started, root = time.monotonic(), root.absolute()
    location, tmpdir = probes.location_of(root), probes.tmpdir_location()
    measured, problem = None, None
    try:
        measured = _measure(Path(location.path), seconds, name or tempfiles.host(), wait_for, log)
    except (OSError, DiskFull) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"{location.path} is not writable: {reason}"
    results = diagnosis.checks(root, location, tmpdir, measured, problem)
    recommended = None
    if measured is not None:
        recommended = diagnosis.recommend(location, measured, seconds / 4)
        layout = records.read(RootPaths(root).format, Format)
        results += diagnosis.compare(layout, recommended)
    return Diagnosis(
        root=str(root),
        host=tempfiles.host(),
        place=location,
        tmpdir=tmpdir,
        measured=measured,
        machine=list(summary.summarize(results, location.filesystem)),
        checks=results,
        advice=recommended,
        seconds=time.monotonic() - started,
    )


def _measure(
    directory: Path, seconds: float, name: str, wait_for: int, log: Callable[[str], None]
) -> Measurements:
    fs.sweep(directory)
    with probes.workspace(directory) as space:
        costs = probes.costs(space, seconds / 5)
        broken = list(probes.broken_promises(space))
        clock = probes.server_clock(space)
    here = session.measure_here(directory, THREADS, seconds / 4)
    if here is None:
        raise JobspecError(
            "threads of this host did not see each other's directories in time",
            hint="names become visible very late on this filesystem: choose a root on another",
        )
    across, missed = _measure_across(directory, name, wait_for, seconds / 4, log)
    return Measurements(
        costs=costs,
        broken=broken,
        server_clock=clock,
        here=here,
        across=across,
        missed_peers=missed,
    )


def _measure_across(
    directory: Path, name: str, wait_for: int, patience_s: float, log: Callable[[str], None]
) -> tuple[JointMeasurement | None, str | None]:
    if wait_for < 2:
        return None, None
    others = wait_for - 1
    log(f"waiting for {others} other{'s' * (others > 1)} in {directory}")
    member = session.Member(directory, "across", name, patience_s)
    measured = member.participate(wait_for, _COME_S)
    missed = f"not all of {others} others came" if others > 1 else "the other host did not come"
    return measured, None if measured is not None else missed
