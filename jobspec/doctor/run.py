"""What a root's filesystem really does, measured: `jobspec doctor`.

Everything is tried in directories of temporary names beside the queue's, removed afterwards; what a
killed doctor leaves is swept by the next one, or by `jobspec fsck`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from jobspec.doctor import diagnosis, probes, session
from jobspec.doctor.measurements import Diagnosis, Found, Measured
from jobspec.errors import DiskFull, JobspecError
from jobspec.records import base as records
from jobspec.records.queue_files import Format
from jobspec.storage import tempfiles

PROCESSES = 4


def examine(
    root: Path,
    *,
    seconds: float = 10.0,
    name: str | None = None,
    wait_for: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Measure a root, or the directory that it would be made in.

    Args:
        root: an existing root, or a directory to become one.
        seconds: about how long it may take; a quarter of it is how long one change is waited for.
        name: this run's among those that measure together; by default the host's.
        wait_for: how many runs, on as many hosts, measure together; 1 is this one alone.
        tell: is told before what may take long.

    Returns:
        What was found. Nothing stays behind.
    """
    started, root = time.monotonic(), root.absolute()
    place, tmpdir = probes.place_of(root), probes.tmpdir_of()
    measured, trouble = None, None
    try:
        measured = _measure(Path(place.path), seconds, name or tempfiles.host(), wait_for, tell)
    except (OSError, DiskFull) as error:
        trouble = f"{place.path} can't be written: {getattr(error, 'strerror', None) or error}"
    found = diagnosis.checks(root, place, tmpdir, measured, trouble)
    times = None
    if measured is not None:
        times = diagnosis.advise(place, measured, seconds / 4)
        found += diagnosis.compare(records.read(root / "FORMAT", Format), times)
    return Diagnosis(
        root=str(root),
        host=tempfiles.host(),
        place=place,
        tmpdir=tmpdir,
        measured=measured,
        checks=found,
        advice=times,
        seconds=time.monotonic() - started,
    )


def _measure(
    place: Path, seconds: float, name: str, wait_for: int, tell: Callable[[str], None]
) -> Measured:
    with probes.workspace(place) as space:
        costs = probes.costs(space, seconds / 5)
        broken = list(probes.broken_promises(space))
        clock = probes.server_clock(space)
    here = session.meet_here(place, PROCESSES, seconds / 4)
    if here is None:
        raise JobspecError(
            "the doctor's own helpers did not come",
            hint="the host may be very busy: try again, or a larger --seconds",
        )
    across, missed = _meet_across(place, name, wait_for, seconds / 4, tell)
    return Measured(
        costs=costs,
        broken=broken,
        server_clock=clock,
        here=here,
        across=across,
        missed_peers=missed,
    )


def _meet_across(
    place: Path, name: str, wait_for: int, patience_s: float, tell: Callable[[str], None]
) -> tuple[Found | None, str | None]:
    if wait_for < 2:
        return None, None
    others = wait_for - 1
    tell(f"waiting for {others} other{'s' * (others > 1)} in {place}")
    found = session.meet_across(place, name, wait_for, patience_s)
    return found, None if found is not None else f"of {others} others not all came"
