"""Explains why sbatch refused an array: the limit that it met, and a command that fits.

Source: slurm.conf(5) MaxArraySize, MaxJobCount, max_array_tasks; sacctmgr(1) MaxSubmitJobs.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterator

from jobspec.cluster.scheduler import Submission

# Runs a command of Slurm's; returns its output, or None if it failed.
Ask = Callable[..., "str | None"]
_OF_SUBMITTING = re.compile(r"submit limit|(?:Max|Grp)Submit")
_OF_ARRAYS = "Invalid job array specification"
_OF_THE_CLUSTER = re.compile(r"temporarily unable|MaxJobCount")


def explain(message: str, submission: Submission, ask: Ask) -> str | None:
    """What to do about a refusal of sbatch; None if no limit is to blame."""
    if _OF_ARRAYS in message:
        return _array_limit(submission, ask)
    if _OF_SUBMITTING.search(message):
        return _submit_limit(submission, ask)
    if _OF_THE_CLUSTER.search(message):
        return _job_limit(submission, ask)
    return None


def setting(name: str, ask: Ask) -> str | None:
    """One of the cluster's settings; None if Slurm does not tell."""
    text = ask("scontrol", "show", "config") or ""
    lines = (line.partition("=") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)


def count_elements(array: str) -> int:
    """How many elements `0-3`, `0,2` or `0-15%4` has."""
    ranges = (part.partition("-") for part in array.partition("%")[0].split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def _array_limit(submission: Submission, ask: Ask) -> str | None:
    most = _number(setting("MaxArraySize", ask))
    if most is None or most < 2:
        return None
    tasks = re.search(r"max_array_tasks=(\d+)", setting("SchedulerParameters", ask) or "")
    limits = f"MaxArraySize is {most} here, so the highest index is {most - 1}"
    if tasks is not None and int(tasks[1]) < most:
        most = int(tasks[1])
        limits += f", and an array has at most {most} elements (max_array_tasks)"
    return f"{limits}; {_try(min(most, _wanted(submission)))}"


def _submit_limit(submission: Submission, ask: Ask) -> str:
    limits = dict(_submit_limits(submission, ask))
    if not limits:
        return (
            "you may not have more elements waiting and running; `sacctmgr show qos "
            "format=name,maxsubmitjobsperuser` shows the limits; submit fewer with --array, "
            "or let `jobspec scale --max` add them"
        )
    # The limit that is used up first: all of them count the same jobs.
    name = min(limits, key=lambda each: limits[each])
    have = _count_jobs(ask, f"--user={getpass.getuser()}")
    text = f"{name} allows you {limits[name]} jobs waiting and running (MaxSubmitJobs)"
    return _with_room(text, limits[name], have, submission)


def _submit_limits(submission: Submission, ask: Ask) -> Iterator[tuple[str, int]]:
    """The limits that may apply: of the QOS, of the partition's QOS, and of the association."""
    table = ("--noheader", "--parsable2", "show")
    told = ask("sacctmgr", *table, "qos", "format=Name,MaxSubmitJobsPerUser") or ""
    of_qos = {row[0]: _number(row[1]) for row in _rows(told, 2)}
    user = f"user={getpass.getuser()}"
    told = ask("sacctmgr", *table, "assoc", user, "format=Account,DefaultQOS,MaxSubmitJobs") or ""
    account = _option(submission, "account")
    associations = [row for row in _rows(told, 3) if account in (None, row[0])]
    qos = _option(submission, "qos")
    names = [qos] if qos else [row[1] or "normal" for row in associations] or ["normal"]
    if (partition := _option(submission, "partition")) is not None:
        shown = ask("scontrol", "--oneliner", "show", "partition", partition) or ""
        names += re.findall(r"\bQoS=(\S+)", shown)
    for name in names:
        if (most := of_qos.get(name)) is not None:
            yield f"QOS `{name}`", most
    for row in associations:
        if (most := _number(row[2])) is not None:
            yield f"account `{row[0]}`", most


def _job_limit(submission: Submission, ask: Ask) -> str:
    most = _number(setting("MaxJobCount", ask))
    if most is None:
        return "the cluster holds as many jobs as it can; try again later with fewer elements"
    text = f"the cluster holds at most {most} jobs (MaxJobCount)"
    # Jobs that have ended count until Slurm forgets them (MinJobAge).
    return _with_room(text, most, _count_jobs(ask, "--states=all"), submission)


def _with_room(limit: str, most: int, have: int | None, submission: Submission) -> str:
    if have is None:
        return f"{limit}; {_try(min(most, _wanted(submission)))}"
    room = min(most - have, _wanted(submission))
    if room < 1:
        return f"{limit} and there are {have}; try again when some have ended"
    return f"{limit} and there are {have}; {_try(room)}"


def _try(elements: int) -> str:
    return f"try: jobspec submit --array 0-{elements - 1}"


def _wanted(submission: Submission) -> int:
    given = [word.partition("=")[2] for word in submission.command if word.startswith("--array=")]
    return count_elements(given[0]) if given else 1


def _count_jobs(ask: Ask, *options: str) -> int | None:
    told = ask("squeue", "--noheader", "--array", "--format=%i", *options)
    return None if told is None else len(told.split())


def _option(submission: Submission, name: str) -> str | None:
    """The value of an option in the script's head."""
    found = re.search(rf"^#SBATCH --{name}[= ](\S+)", submission.text, re.MULTILINE)
    return found[1] if found else None


def _rows(text: str, columns: int) -> list[list[str]]:
    rows = (line.split("|") for line in text.splitlines())
    return [row for row in rows if len(row) == columns]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
