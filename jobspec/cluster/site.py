"""`slurm/site.env`: what one site and one person need, kept out of the repository.

A shell file of `NAME=value` lines that batch scripts source. Read here without a shell, so it may
hold nothing else.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from jobspec.errors import JobspecError
from jobspec.storage import fs

DEFAULT_FILE = Path("slurm/site.env")
SIGNAL_S = 300  # before the time limit: what a checkpoint of an 8B model may take
_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_PREFIX = "JOBSPEC_"


@dataclass(frozen=True, kw_only=True)
class Site:
    """The settings, each a `JOBSPEC_…` line of the file. Empty means Slurm's or the site's default.

    `gpus`, `cpus` and `mem` are those of one node; `time` and `mem` in Slurm's spelling; `modules`,
    `binds`, `stage` and `worker_options` are words.
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
    "root": "The queue, on a filesystem that compute nodes mount.",
    "sif": "The image of `make container`.",
    "account": "Slurm: whom it is charged to, where it runs, for how long at a time.",
    "signal_s": "Seconds before the time limit at which workers save and come back.",
    "gpus": "A node's GPUs, cores and memory for one worker.",
    "modules": "Modules to load, and the program's name or path.",
    "binds": "Directories with models and data outside the root: /a /b:/c:ro …",
    "node_tmp": "A short directory on the node's own disk; empty: $SLURM_TMPDIR, $TMPDIR or /tmp.",
    "stage_sif": "1: copy the image there first; and directories (models) to copy there.",
    "worker_options": "See jobspec-worker --help. Idle ones leave, `jobspec scale` brings others.",
    "sbatch_options": "Further options of sbatch, as words: --exclude=gpu012 …",
}


def read(file: Path) -> Site:
    """The settings in a file, checked.

    Raises:
        JobspecError: missing, not of this form, or incomplete.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise JobspecError(
            "no site settings", file=file, hint="`jobspec setup` writes them"
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
    """Write the settings, whole or not at all. Raises JobspecError where they don't hold."""
    check(site, file)
    lines = ["# Written by `jobspec setup`; sourced by slurm/*.sbatch. Not for the repository."]
    for name in SETTINGS:
        if name in COMMENTS:
            lines += ["", f"# {COMMENTS[name]}"]
        lines.append(f"{_PREFIX}{name.upper()}={shlex.quote(getattr(site, name))}")
    file.parent.mkdir(parents=True, exist_ok=True)
    fs.replace(file, ("\n".join(lines) + "\n").encode())


def check(site: Site, file: Path | None = None) -> None:
    """Refuse settings that can't work on any site. Raises JobspecError naming the setting."""
    for name in ("root", "sif"):
        path = getattr(site, name)
        if not path:
            raise _refusal(file, name, "is not set", "run `jobspec setup` again, or add it")
        if not path.startswith("/"):
            raise _refusal(file, name, f"is a relative path: `{path}`", "jobs start elsewhere")
    for name in ("gpus", "cpus", "signal_s"):
        value = getattr(site, name)
        if value and not value.isdigit():
            raise _refusal(file, name, f"is no number: `{value}`", "")
    if not site.signal_s or not site.gpus:
        raise _refusal(file, "signal_s" if site.gpus else "gpus", "is not set", "give a number")
    if site.time:
        limit_s, signal_s = _time_s(site, file), int(site.signal_s)
        if limit_s < 2 * signal_s:
            raise _refusal(
                file,
                "time",
                f"`{site.time}` leaves {max(0, limit_s - signal_s)} s of work before the warning",
                f"give more time, or lower {_PREFIX}SIGNAL_S: a step and a save must fit",
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
            hint="values are plain words in quotes; nothing in this file is expanded or run",
        )
    return found["name"], words[0] if words else ""


def _time_s(site: Site, file: Path | None) -> int:
    """Slurm's time limit in seconds: `minutes`, `minutes:seconds`, `h:m:s`, `days-h[:m[:s]]`."""
    found = _TIME.fullmatch(site.time)
    if found is None:
        raise _refusal(file, "time", f"is no time: `{site.time}`", "as 03:00:00, or 1-12")
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return int(found["days"]) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 3:
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)


def _refusal(file: Path | None, name: str, what: str, hint: str) -> JobspecError:
    return JobspecError(f"{_PREFIX}{name.upper()} {what}", file=file, hint=hint or None)
