"""Handing a rendered script to sbatch, after the checks that a login node can make."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from jobspec.cluster import batch_script
from jobspec.cluster.site import Site
from jobspec.errors import JobspecError
from jobspec.records.base import utc_now
from jobspec.storage import fs

_ARRAY = re.compile(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*(?:%\d+)?")
_LABEL = "org.opencontainers.image.version"
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Plan:
    """What is to be submitted: the script's text and the command that gets it on stdin's place."""

    text: str
    options: tuple[str, ...]


def plan(site: Site, site_file: Path, *, array: str, version: str, multinode: int = 0) -> Plan:
    """What `jobspec submit` would do. Raises JobspecError for an array that is none."""
    if not _ARRAY.fullmatch(array):
        raise JobspecError(f"no array: `{array}`", hint="as 0-3, or 0,2, or 0-15%4")
    name = batch_script.MULTINODE if multinode else batch_script.WORKER
    text = batch_script.render(site, site_file, version=version, script=name)
    options = ["--parsable", f"--array={array}"]
    if multinode:
        options.append(f"--nodes={multinode}")
    return Plan(text, tuple(options))


def submit(site: Site, what: Plan) -> str:
    """Give the script to sbatch, keeping a copy beside the logs.

    Returns:
        The array's job id.

    Raises:
        JobspecError: there is no sbatch, or it refused; then nothing was submitted.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise JobspecError(
            "there is no sbatch here", hint="submit from a login node of the cluster"
        )
    logs = batch_script.log_dir(site.root)
    fs.make_dir(logs)
    copy = logs / f"{utc_now()[:19].replace(':', '')}-{os.getpid()}.sbatch"
    fs.publish(copy, what.text.encode())
    done = subprocess.run(
        [sbatch, *what.options, str(copy)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=logs,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        fs.remove(copy)
        raise JobspecError(
            f"sbatch refused: {said}", hint=f"the options stand in {copy.name}'s head"
        )
    return done.stdout.strip().partition(";")[0]


def check_image(site: Site, version: str) -> str | None:
    """Look at the image as far as this host can.

    Returns:
        A note for people where it could not be compared; None if all is well.

    Raises:
        JobspecError: it is missing, or older than the code.
    """
    if not Path(site.sif).is_file():
        raise JobspecError("there is no image", file=site.sif, hint=_rebuild(site.sif))
    apptainer = shutil.which(site.apptainer)
    if apptainer is None:
        return f"no {site.apptainer} here, so the image's version is compared on the node"
    has = _version_of(apptainer, site.sif)
    if _key(has) < _key(version):
        raise JobspecError(
            f"the image is of version {has or 'unknown'}, the code is {version}",
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
        raise JobspecError("can't be read as an image", file=sif, hint=_rebuild(sif)) from error
    return labels.get(_LABEL, "")


def _rebuild(sif: str) -> str:
    return f"build it: make container SIF={sif}, or sbatch slurm/build.sbatch"


def _key(version: str) -> tuple[int, ...]:
    """A release's numbers, to compare by: 0.10 is after 0.9. What has none is before all."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))
