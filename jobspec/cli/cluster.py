"""The cluster: setup, submit, scale."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import click

from jobspec.cli.common import common, given_root, wants_json
from jobspec.cli.output import emit, plural, say
from jobspec.cluster import autoscale, detect
from jobspec.cluster import site as sites
from jobspec.cluster import submit as submissions
from jobspec.cluster.scheduler import Submission
from jobspec.cluster.site import Site
from jobspec.errors import JobspecError
from jobspec.queue.queue import Queue

_QUESTIONS = {
    "root": "Root of the queue, on a filesystem that compute nodes mount",
    "sif": "Image (Apptainer SIF)",
    "account": "Slurm account (empty: your default)",
    "partition": "Partition (empty: the default)",
    "time": "Time limit of one element (empty: the partition's)",
    "gpus": "GPUs of one worker",
    "cpus": "CPU cores of one worker (empty: the default)",
    "mem": "Memory of one worker (empty: the default)",
    "modules": "Modules to load for apptainer (empty: none)",
    "binds": "Further directories with models and data (empty: none)",
}

site_option = click.option(
    "--site",
    "site_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="The site's settings.  [default: $JOBSPEC_SITE_ENV, else slurm/site.env]",
)


def _with_settings(command: click.Command) -> click.Command:
    for name in reversed(sites.SETTINGS):
        if name != "root":
            option = click.Option([f"--{name.replace('_', '-')}", name], help=_help(name))
            command.params.insert(0, option)
    return command


def _help(name: str) -> str:
    return _QUESTIONS.get(name, sites.COMMENTS.get(name, f"{name} of the jobs, in Slurm's words"))


@click.command()
@site_option
@common
def setup(site_file: Path | None, **given: str | None) -> None:
    """Write slurm/site.env: what batch scripts need to know of this site, and make the root.

    \b
    jobspec setup
    jobspec setup --root /scratch/me/queue --sif /scratch/me/worker.sif --gpus 4 --time 03:00:00

    Without options it asks, if a terminal is there to answer. What is written already is kept
    unless said anew.
    """
    file = _site_file(site_file)
    before = sites.read(file) if file.exists() else Site()
    asked = {name: value for name, value in given.items() if value is not None}
    root = given_root()
    if root is not None:
        asked["root"] = str(root)
    site = replace(before, **asked)
    if sys.stdin.isatty() and not wants_json():
        missing = (n for n in ("root", "sif") if not getattr(site, n))
        site = replace(site, **{n: _ask(n, site) for n in (missing if asked else _QUESTIONS)})
    sites.check(site, file)
    Queue.create(site.root)
    sites.write(file, site)
    if wants_json():
        return emit({"site": str(file), "settings": asdict(site)})
    click.echo(file)
    return say(f"next: make container SIF={site.sif}, then jobspec submit --array 0-3")


_with_settings(setup)


@click.command()
@click.option("--array", default="0", show_default=True, help="Elements, as 0-3 or 0-15%4.")
@click.option("--nodes", default=0, help="One worker over so many nodes.")
@click.option("--dry-run", is_flag=True, help="Print the script, submit nothing.")
@site_option
@common
def submit(array: str, nodes: int, dry_run: bool, site_file: Path | None) -> None:
    """Submit workers to Slurm, one an array element.

    \b
    jobspec submit --array 0-3
    jobspec submit --array 0-3 --dry-run

    The script that is submitted is kept in ROOT/slurm, where the elements' logs go too.
    """
    file = _site_file(site_file)
    site = _read(file)
    release, scheduler = version("jobspec"), detect.scheduler()
    submission = scheduler.submission(site, file, array=array, version=release, nodes=nodes)
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
@click.option("--max", "most", type=click.IntRange(0), required=True, help="Elements at most.")
@click.option("--dry-run", is_flag=True, help="Say what is missing, submit nothing.")
@site_option
@common
def scale(most: int, dry_run: bool, site_file: Path | None) -> None:
    """Keep as many workers in Slurm as the queue needs; made for cron.

    \b
    jobspec scale --max 8
    */5 * * * * jobspec scale --max 8 --site /home/me/site.env

    First takes back what dead workers hold, as Slurm knows them. Idle workers leave by themselves.
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


def _report_lock() -> None:
    why = "another process is scaling this root now"
    if wants_json():
        return emit({**asdict(autoscale.Need(0, 0, 0, 0, why=why)), "slurm_job": None})
    return say(why)


def _summary(need: autoscale.Need, job: str | None) -> str:
    parts = [f"{plural(need.work, 'job')} to do, {plural(need.have, 'element')} in Slurm"]
    if need.reaped:
        parts.append(f"taken back: {', '.join(need.reaped)}")
    if need.unfit:
        parts.append(f"{plural(need.unfit, 'job')} want more GPUs than an element has")
    if need.why:
        parts.append(need.why)
    if need.missing:
        parts.append(f"submitted {need.missing} as {job}" if job else f"{need.missing} missing")
    return "; ".join(parts)


def _show(submission: Submission, site: Site) -> None:
    if wants_json():
        options = list(submission.command[1:])
        return emit({"sbatch": options, "script": submission.text, "root": site.root})
    say(" ".join(submission.command))
    return click.echo(submission.text, nl=False)


def _read(file: Path) -> Site:
    """The settings; the nodes read them too, so --root can't name another root."""
    site = sites.read(file)
    root = given_root()
    if root is not None and str(root) != site.root:
        raise JobspecError(
            f"--root is `{root}`, the site's settings say `{site.root}`",
            file=file,
            hint="name another file with --site: one for each root",
        )
    return site


def _site_file(given: Path | None) -> Path:
    return (given or Path(os.environ.get("JOBSPEC_SITE_ENV") or sites.DEFAULT_FILE)).absolute()


def _ask(name: str, site: Site) -> str:
    known = getattr(site, name)
    return click.prompt(_QUESTIONS[name], known, show_default=bool(known), err=True).strip()
