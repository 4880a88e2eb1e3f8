"""`slurm/site.env`: the settings of one cluster and one user, kept out of the repository.

The file has `NAME=value` lines, which batch scripts source. This module reads it without a shell,
so it may hold nothing else.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from jobspec.errors import JobspecError
from jobspec.storage import fs

DEFAULT_FILE = Path("slurm/site.env")
SIGNAL_S = 300  # before the time limit: enough for a checkpoint of an 8B model
_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_PREFIX = "JOBSPEC_"
_NODE_TMP_MAX = 20  # slurm/worker.sbatch: the path of a socket below it has at most 107 bytes


@dataclass(frozen=True, kw_only=True)
class Site:
    """The settings, one `JOBSPEC_…` line each. An empty value means the cluster's default.

    `gpus`, `cpus` and `mem` are per node. `time` and `mem` are in sbatch's notation. `modules`,
    `binds`, `stage` and `worker_options` may have several values, separated by blanks.
    """

    root: str = ""
    sif: str = ""
    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    time: str = ""
    signal_s: str = str(SIGNAL_S)
    gpus: str = "0"
    gpu_type: str = ""
    cpus: str = ""
    mem: str = ""
    modules: str = ""
    apptainer: str = "apptainer"
    binds: str = ""
    node_tmp: str = ""
    stage_sif: str = "0"
    stage: str = ""
    worker_options: str = "--idle-timeout 600"
    sbatch_options: str = ""


SETTINGS = tuple(field.name for field in fields(Site))
COMMENTS = {
    "root": "Directory of the queue, on a filesystem that compute nodes mount.",
    "sif": "Apptainer image, built by `make container`.",
    "account": "Slurm: account, partition, quality of service, node features, time limit.",
    "signal_s": "Seconds before the time limit when workers save a checkpoint and are requeued.",
    "gpus": "GPUs, GPU type, CPU cores and memory per node.",
    "modules": "Modules to load, and the name or path of the apptainer program.",
    "binds": "Further directories with models and data, e.g. /a /b:/c:ro.",
    "node_tmp": "On the node's disk, at most 20 characters; empty: $SLURM_TMPDIR, $TMPDIR or /tmp.",
    "stage_sif": "1 copies the image to the node's disk first; `stage` names directories to copy.",
    "worker_options": "Options of the workers; see `jobspec-worker --help`.",
    "sbatch_options": "Further options of sbatch, e.g. --exclude=gpu012.",
}


def default_file() -> Path:
    """`$JOBSPEC_SITE_ENV`, or slurm/site.env, as an absolute path."""
    return Path(os.environ.get("JOBSPEC_SITE_ENV") or DEFAULT_FILE).absolute()


def read(file: Path) -> Site:
    """Read and check a settings file.

    Raises:
        JobspecError: the file is missing, malformed or incomplete.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise JobspecError(
            "no site settings", file=file, hint="run `jobspec setup` to write them"
        ) from error
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, value = _assignment(file, number, line)
            values[name] = value
    known = {_PREFIX + name.upper(): name for name in SETTINGS}
    site = Site(**{known[name]: value for name, value in values.items() if name in known})
    check(site, file)
    return site


def write(file: Path, site: Site) -> None:
    """Write the settings atomically. Raises JobspecError if they are invalid."""
    check(site, file)
    lines = ["# Written by `jobspec setup`, sourced by slurm/*.sbatch. Do not commit it."]
    for name in SETTINGS:
        if name in COMMENTS:
            lines += ["", f"# {COMMENTS[name]}"]
        lines.append(f"{_PREFIX}{name.upper()}={shlex.quote(getattr(site, name))}")
    file.parent.mkdir(parents=True, exist_ok=True)
    fs.replace(file, ("\n".join(lines) + "\n").encode())


def check(site: Site, file: Path | None = None) -> None:
    """Refuse settings that cannot work on any cluster. Raises JobspecError naming the setting."""
    for name in ("root", "sif"):
        path = getattr(site, name)
        if not path:
            raise _refusal(file, name, "is not set", "run `jobspec setup` again, or add it")
        if not path.startswith("/"):
            raise _refusal(file, name, f"is a relative path: `{path}`", "give an absolute path")
    if site.node_tmp and not site.node_tmp.startswith("/"):
        raise _refusal(file, "node_tmp", f"is a relative path: `{site.node_tmp}`", "")
    if len(site.node_tmp) > _NODE_TMP_MAX:
        what = f"has {len(site.node_tmp)} characters: `{site.node_tmp}`"
        raise _refusal(file, "node_tmp", what, f"name a directory with at most {_NODE_TMP_MAX}")
    for name in ("gpus", "cpus", "signal_s"):
        value = getattr(site, name)
        if value and not value.isdigit():
            raise _refusal(file, name, f"is not a number: `{value}`", "")
    if not site.signal_s or not site.gpus:
        raise _refusal(file, "signal_s" if site.gpus else "gpus", "is not set", "give a number")
    if site.time:
        limit_s, signal_s = time_limit_s(site, file), int(site.signal_s)
        if limit_s < 2 * signal_s:
            raise _refusal(
                file,
                "time",
                f"`{site.time}` leaves {max(0, limit_s - signal_s)} s of work before the signal",
                f"allow more time or lower {_PREFIX}SIGNAL_S: a step and a checkpoint must fit",
            )


def _assignment(file: Path, number: int, line: str) -> tuple[str, str]:
    found = _LINE.fullmatch(line.strip())
    try:
        words = shlex.split(found["value"], comments=True) if found else []
    except ValueError:
        found = None
        words = []
    if found is None or len(words) > 1 or "$" in line or "`" in line:
        raise JobspecError(
            f"not NAME=value: `{line}`",
            file=file,
            place=f"line {number}",
            hint="quote values with blanks; nothing in this file is expanded or run",
        )
    return found["name"], words[0] if words else ""


def time_limit_s(site: Site, file: Path | None = None) -> int:
    """Slurm's time limit in seconds: `minutes`, `minutes:seconds`, `h:m:s`, `days-h[:m[:s]]`."""
    found = _TIME.fullmatch(site.time)
    if found is None:
        raise _refusal(
            file, "time", f"is not a time limit: `{site.time}`", "write it like 03:00:00, or 1-12"
        )
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return int(found["days"]) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 3:
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)


def _refusal(file: Path | None, name: str, what: str, hint: str) -> JobspecError:
    return JobspecError(f"{_PREFIX}{name.upper()} {what}", file=file, hint=hint or None)
