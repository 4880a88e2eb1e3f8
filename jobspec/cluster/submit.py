"""Submit workers as array elements, after the checks that a login node can make."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from jobspec.cluster.scheduler import Scheduler, Submission
from jobspec.cluster.site import Site
from jobspec.errors import JobspecError
from jobspec.records.base import utc_now
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

_LABEL = "org.opencontainers.image.version"
_TIMEOUT_S = 60.0


def submit(scheduler: Scheduler, site: Site, submission: Submission) -> str:
    """Submit a script and keep a copy of it beside the elements' logs.

    Returns:
        The array's job id.

    Raises:
        JobspecError: the scheduler's command is missing or refused; nothing was submitted.
    """
    logs = RootPaths(Path(site.root)).batch_logs
    fs.make_dir(logs)
    script = logs / f"{utc_now()[:19].replace(':', '')}-{os.getpid()}.sbatch"
    fs.publish(script, submission.text.encode())
    try:
        return scheduler.submit(submission, script)
    except JobspecError:
        fs.remove(script)
        raise


def check_image(site: Site, version: str) -> str | None:
    """Check the image as far as this host can.

    Returns:
        A note if the image's version could not be compared here; None if all is well.

    Raises:
        JobspecError: the image is missing, or older than the code.
    """
    if not Path(site.sif).is_file():
        raise JobspecError("there is no image", file=site.sif, hint=_rebuild(site.sif))
    apptainer = shutil.which(site.apptainer)
    if apptainer is None:
        return f"{site.apptainer} is not installed here: the node will compare the image's version"
    image_version = _version_of(apptainer, site.sif)
    if _key(image_version) < _key(version):
        raise JobspecError(
            f"the image is of version {image_version or 'unknown'}, the code is {version}",
            file=site.sif,
            hint=_rebuild(site.sif),
        )
    return None


def _version_of(apptainer: str, sif: str) -> str:
    try:
        done = subprocess.run(
            [apptainer, "inspect", "--json", "--labels", sif],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        labels = json.loads(done.stdout)["data"]["attributes"]["labels"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise JobspecError("not a readable image", file=sif, hint=_rebuild(sif)) from error
    return labels.get(_LABEL, "")


def _rebuild(sif: str) -> str:
    return f"build it: make container SIF={sif}, or sbatch slurm/build.sbatch"


def _key(version: str) -> tuple[int, ...]:
    """A release's numbers for comparison: 0.10 is after 0.9. No number at all sorts first."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))
