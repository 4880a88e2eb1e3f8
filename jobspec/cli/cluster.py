"""`jobspec setup`, `submit` and `scale`: start workers on a cluster."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import click

from jobspec.cli.common import common, given_root, wants_json
from jobspec.cli.output import emit, plural, say
from jobspec.cluster import autoscale, detect
from jobspec.cluster import site as sites
from jobspec.cluster import submit as submissions
from jobspec.cluster.scheduler import Scheduler, Submission
from jobspec.cluster.site import Site
from jobspec.errors import JobspecError
from jobspec.queue.queue import Queue

_QUESTIONS = {
    "root": "Directory of the queue, on a filesystem that compute nodes mount",
    "sif": "Apptainer image (SIF file)",
    "account": "Slurm account (empty: your default)",
    "partition": "Slurm partition (empty: the default)",
    "time": "Time limit of one array element, e.g. 03:00:00 (empty: the partition's)",
    "gpus": "GPUs per node",
    "cpus": "CPU cores per node (empty: the default)",
    "mem": "Memory per node, e.g. 200G (empty: the default)",
    "modules": "Modules to load for apptainer (empty: none)",
    "binds": "Further directories with models and data (empty: none)",
}
_HELP = {
    "qos": "Slurm quality of service, e.g. gpu-long (--qos of sbatch).",
    "constraint": "Node features that elements need (--constraint of sbatch), e.g. h100&nvme.",
    "gpu_type": "GPU type, if Slurm needs it, e.g. a100.",
    "apptainer": "Name or path of the apptainer program.",
    "stage": "Directories with models to copy to the node's disk, separated by blanks.",
}

site_option = click.option(
    "--site",
    "site_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Settings file.  [default: $JOBSPEC_SITE_ENV, or slurm/site.env]",
)


def _with_settings(command: click.Command) -> click.Command:
    for name in reversed(sites.SETTINGS):
        if name != "root":
            option = click.Option([f"--{name.replace('_', '-')}", name], help=_help(name))
            command.params.insert(0, option)
    return command


def _help(name: str) -> str:
    default = getattr(Site(), name)
    text = (
        _HELP.get(name) or _QUESTIONS.get(name, "").partition(" (empty")[0] or sites.COMMENTS[name]
    )
    return text.rstrip(".") + "." + (f"  [default: {default}]" if default else "")


@click.command()
@site_option
@common
def setup(site_file: Path | None, **given: str | None) -> None:
    """Write the settings of this cluster to slurm/site.env, and create the root.

    \b
    jobspec setup
    jobspec setup --root /scratch/me/queue --sif /scratch/me/worker.sif
    jobspec setup --gpus 4 --time 03:00:00

    Without options it asks for the settings on a terminal. Run it again to change a setting: the
    others stay as they are.
    """
    file = _site_file(site_file)
    before = sites.read(file) if file.exists() else Site()
    changes = {name: value for name, value in given.items() if value is not None}
    root = given_root()
    if root is not None:
        changes["root"] = str(root)
    site = replace(before, **changes)
    if sys.stdin.isatty() and not wants_json():
        missing = (n for n in ("root", "sif") if not getattr(site, n))
        site = replace(site, **{n: _ask(n, site) for n in (missing if changes else _QUESTIONS)})
    sites.check(site, file)
    Queue.create(site.root)
    sites.write(file, site)
    if wants_json():
        return emit({"site": str(file), "settings": asdict(site)})
    click.echo(file)
    return say(f"next: make container SIF={site.sif}, then jobspec submit --array 0-3")


_with_settings(setup)


@click.command()
@click.option(
    "--array",
    default="0",
    show_default=True,
    help="Array elements, one worker each, e.g. 0-3 or 0-15%4.",
)
@click.option("--nodes", default=0, help="Nodes per array element.  [default: 1]")
@click.option(
    "--time",
    "time_limit",
    help="Time limit of an element, e.g. 03:00:00. With auto the one that should end the work "
    "first is chosen, up to the settings' limit.  [default: as in the settings]",
)
@click.option("--dry-run", is_flag=True, help="Print the batch script without submitting it.")
@site_option
@common
def submit(
    array: str, nodes: int, time_limit: str | None, dry_run: bool, site_file: Path | None
) -> None:
    """Submit workers to Slurm, one per array element.

    \b
    jobspec submit --array 0-3
    jobspec submit --array 0-3 --dry-run
    jobspec submit --array 0-3 --time auto --dry-run

    ROOT/slurm keeps the submitted batch script and the elements' logs.
    """
    file = _site_file(site_file)
    site = _read(file)
    release, scheduler = version("jobspec"), detect.scheduler()

    def render(limit: str) -> Submission:
        limited = replace(site, time=limit)
        sites.check(limited)
        return scheduler.submission(limited, file, array=array, version=release, nodes=nodes)

    if time_limit == "auto":
        time_limit = _choose_time(site, scheduler, array, render)
    submission = render(time_limit or site.time)
    if dry_run:
        return _show(submission, site)
    note = submissions.check_image(site, release)
    if note:
        say(note)
    Queue(site.root)
    job = submissions.submit(scheduler, site, submission)
    if wants_json():
        return emit({"slurm_job": job, "array": array})
    return click.echo(f"Slurm job {job}, elements {array}")


@click.command()
@click.option(
    "--max",
    "most",
    type=click.IntRange(0),
    required=True,
    help="Maximum number of waiting and running array elements.",
)
@click.option("--dry-run", is_flag=True, help="Print how many elements it would submit.")
@site_option
@common
def scale(most: int, dry_run: bool, site_file: Path | None) -> None:
    """Submit workers to Slurm until there is one for every unfinished job.

    \b
    jobspec scale --max 8
    */5 * * * * jobspec scale --max 8 --site /home/me/site.env

    Run it from cron. It first reaps the jobs of workers that Slurm knows to be dead. It never stops
    workers: idle ones leave by themselves.
    """
    file = _site_file(site_file)
    site = _read(file)
    release, scheduler = version("jobspec"), detect.scheduler()
    submissions.check_image(site, release)
    with autoscale.lock(Path(site.root)) as acquired:
        if not acquired:
            return _report_lock()
        need = autoscale.need(Queue(site.root), site, scheduler, most, getpass.getuser())
        job = None
        if need.missing and not dry_run:
            array = f"0-{need.missing - 1}"
            submission = scheduler.submission(site, file, array=array, version=release)
            job = submissions.submit(scheduler, site, submission)
    if wants_json():
        return emit({**asdict(need), "slurm_job": job})
    return click.echo(_summary(need, job))


def _choose_time(
    site: Site, scheduler: Scheduler, array: str, render: Callable[[str], Submission]
) -> str:
    """Choose the time limit by the waiting jobs and the scheduler's gaps; prints why."""
    from jobspec.cluster import walltime
    from jobspec.cluster.slurm_limits import count_elements

    render("")  # refuses an array that is none
    at_once = array.partition("%")[2]
    choice = walltime.choose(
        walltime.measure(Queue(site.root, write=False)),
        min(count_elements(array), int(at_once or 10**6)),
        signal_s=float(site.signal_s),
        most_s=float(sites.time_limit_s(site)) if site.time else None,
        wait_s=lambda limit_s: scheduler.wait_s(render(walltime.sbatch_time(limit_s))),
    )
    for line in choice.lines:
        say(line)
    return choice.time


def _report_lock() -> None:
    why = "another process is scaling this root now"
    if wants_json():
        return emit({**asdict(autoscale.Need(0, 0, 0, 0, why=why)), "slurm_job": None})
    return say(why)


def _summary(need: autoscale.Need, job: str | None) -> str:
    parts = [f"{plural(need.work, 'unfinished job')}, {plural(need.have, 'element')} in Slurm"]
    if need.reaped:
        parts.append(f"reaped: {', '.join(need.reaped)}")
    if need.unfit:
        parts.append(f"{plural(need.unfit, 'job')} needing more GPUs than an element has")
    if need.why:
        parts.append(need.why)
    if need.missing:
        parts.append(f"submitted {need.missing} as {job}" if job else f"{need.missing} missing")
    return "; ".join(parts)


def _show(submission: Submission, site: Site) -> None:
    if wants_json():
        options = list(submission.command[1:])
        return emit({submission.command[0]: options, "script": submission.text, "root": site.root})
    say(" ".join(submission.command))
    return click.echo(submission.text, nl=False)


def _read(file: Path) -> Site:
    """The settings. Compute nodes read the same file, so --root cannot name another root."""
    site = sites.read(file)
    root = given_root()
    if root is not None and str(root) != site.root:
        raise JobspecError(
            f"--root is `{root}`, but the settings say `{site.root}`",
            file=file,
            hint="use one settings file per root, and choose it with --site",
        )
    return site


def _site_file(given: Path | None) -> Path:
    return given.absolute() if given is not None else sites.default_file()


def _ask(name: str, site: Site) -> str:
    known = getattr(site, name)
    return click.prompt(_QUESTIONS[name], known, show_default=bool(known), err=True).strip()
