"""`jobspec relay`: send curves and scores to W&B and other destinations."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobspec.cli.common import common, jobs_argument, open_queue, wants_json
from jobspec.cli.output import emit, plural, say, warn
from jobspec.cli.progress import Wait, waiting
from jobspec.errors import JobspecError
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.spec import tracking_names, tracking_sinks

if TYPE_CHECKING:
    from jobspec.relay.online import RelayOptions
    from jobspec.storage.handover_lock import HandoverLock


@click.command()
@jobs_argument(required=False)
@click.option("--watch", is_flag=True, help="Keep running until Ctrl-C.")
@click.option(
    "--sink",
    "sinks",
    multiple=True,
    type=click.Choice(list(tracking_sinks.SINKS)),
    help="Where to send the rows; may be repeated.  [default: tracking.sinks of each spec]",
)
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Directory for TensorBoard's event files.  [default: ROOT/relay/tensorboard]",
)
@click.option(
    "--trackio",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Directory for trackio's databases.  [default: ROOT/relay/trackio]",
)
@click.option(
    "--offline", is_flag=True, help="Write the runs of ended jobs to disk, for `wandb sync`."
)
@click.option(
    "--verify", is_flag=True, help="Send nothing; compare the rows that arrived with the files."
)
@click.option("--settled", is_flag=True, help="Send only rows that no later attempt can replace.")
@click.option("--project", help="W&B project.  [default: tracking.project of each spec]")
@click.option("--entity", help="W&B entity.  [default: tracking.entity of each spec]")
@click.option(
    "--resend", is_flag=True, help="Send runs that were deleted on the server again, as new runs."
)
@click.option(
    "--interval",
    type=click.FloatRange(0.05),
    default=15.0,
    show_default=True,
    help="Seconds between two reads of the files, with --watch.",
)
@click.option("--grace", type=click.FloatRange(0), default=15.0, hidden=True)
@click.option("--stall", type=click.FloatRange(0), default=180.0, hidden=True)
@common
def relay(jobs: tuple[str, ...], **options: Any) -> None:
    """Send the jobs' curves and scores to W&B, TensorBoard or trackio, each row once.

    \b
    jobspec relay --watch                keep sending, in tmux on a login node
    jobspec relay                        send what is new and exit, for cron
    jobspec relay --sink tensorboard     write event files for TensorBoard
    jobspec relay 'qwen3-*' --offline    write runs for `wandb sync`
    jobspec relay --verify               check that everything arrived

    W&B needs the extra `relay` (pip install 'jobspec[relay]') and an API key in WANDB_API_KEY or
    ~/.netrc. You can stop and restart it at any time. Only one relay can run per root.
    """
    queue = open_queue()
    for name in ("project", "entity"):
        for wrong, hint in tracking_names.problems(name, options[name]):
            raise JobspecError(f"--{name} {wrong}", hint=hint)
    if options["offline"] and options["sinks"] not in ((), (tracking_sinks.WANDB,)):
        raise JobspecError("--offline writes runs for W&B only", hint="leave out --sink")

    def select() -> list[Job]:
        return queue.select(jobs) if jobs else queue.jobs()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options["verify"]:
        return _verify(queue, select, options)
    from jobspec.storage import handover_lock

    interval_s, lease_s = queue.format.heartbeat_s, queue.format.lease_s
    with handover_lock.acquire(
        queue.paths.relay_lock, "relay", heartbeat_s=interval_s, lease_s=lease_s
    ) as held:
        if options["offline"]:
            return _write_offline(queue, select, options, held.heartbeat)
        _send(queue, select, options | {"named": bool(jobs)}, held)
    return None


def _send(
    queue: Queue, select: Callable[[], list[Job]], options: dict[str, Any], lock: HandoverLock
) -> None:
    from jobspec.relay.relay_group import RelayGroup

    def report(text: str) -> None:
        wait.close()
        warn(text)

    watched = options["watch"]  # then the relay stays, and waits for nothing
    wait = Wait("sending rows")
    sender = RelayGroup(queue, _relay_options(select, options), lock, report)
    try:
        with nullcontext() if watched else wait.shown_after():
            while True:
                done = sender.once()
                if done and not watched:
                    break
                sender.wait()
    except KeyboardInterrupt:
        say("stopped; the next relay sends what has not arrived yet")
    finally:
        sender.close()
    arrived = {sink: relay.arrived for sink, relay in sender.relays.items()}
    if wants_json():
        runs = {_named(sink, id): n for sink, rows in arrived.items() for id, n in rows.items()}
        emit({"runs": runs, "problems": sender.problems})
    else:
        for sink, rows in arrived.items():
            where = tracking_sinks.SINKS[sink].where
            say(f"{plural(len(rows), 'run')} checked, {plural(sum(rows.values()), 'row')} {where}")
    click.get_current_context().exit(1 if sender.problems else 0)


def _named(sink: str, run: str) -> str:
    """A run as it is printed: with its destination, unless that is W&B."""
    return run if sink == tracking_sinks.WANDB else f"{sink}/{run}"


def _relay_options(select: Callable[[], list[Job]], options: dict[str, Any]) -> RelayOptions:
    from jobspec.relay.online import RelayOptions
    from jobspec.relay.sync import SyncTiming

    return RelayOptions(
        select=select,
        sinks=options["sinks"],
        stores={sink: options[sink] for sink in tracking_sinks.STORED if options[sink] is not None},
        project=options["project"],
        entity=options["entity"],
        settled=options["settled"],
        resend=options["resend"],
        everything=options.get("named", False),
        interval_s=options["interval"],
        timing=SyncTiming(
            grace_s=options["grace"], stall_s=options["stall"], watch=options["watch"]
        ),
    )


def _write_offline(
    queue: Queue,
    select: Callable[[], list[Job]],
    options: dict[str, Any],
    heartbeat: Callable[[], None],
) -> None:
    from jobspec.relay.client import connect
    from jobspec.relay.job_sinks import JobSinks
    from jobspec.relay.offline import Offline

    problems: list[str] = []
    written: list[Path] = []

    def report(text: str) -> None:
        if text not in problems:
            problems.append(text)
            warn(text)

    sinks = JobSinks(options["sinks"])
    client = connect(offline=True)
    offline = Offline(queue.paths, client, report)
    try:
        while True:
            heartbeat()
            jobs = list(sinks.only(select(), tracking_sinks.WANDB))
            written += offline.write(jobs, heartbeat)
            if not options["watch"]:
                break
            time.sleep(min(options["interval"], queue.format.heartbeat_s))
    except KeyboardInterrupt:
        pass
    finally:
        client.kill()
    if wants_json():
        emit({"written": [str(path) for path in written], "problems": problems})
    else:
        for path in written:
            click.echo(path)
        runs = plural(len(written), "run")
        say(f"{runs} written; send them with: wandb sync {offline.dir}/offline-run-*")
    click.get_current_context().exit(1 if problems else 0)


def _verify(queue: Queue, select: Callable[[], list[Job]], options: dict[str, Any]) -> None:
    from jobspec.relay.verify import verify

    offline, relay_options = options["offline"], _relay_options(select, options)
    with waiting("comparing with W&B"):
        runs = verify(queue, select(), offline=offline, options=relay_options)
    wrong = [run for run in runs if not run.is_exact]
    if wants_json():
        import msgspec

        emit({"runs": msgspec.to_builtins(runs), "exact": not wrong})
    else:
        for run in runs:
            mark = click.style("exact", fg="green") if run.is_exact else run.summary
            name = _named(run.sink, run.run)
            click.echo(f"{name}: {run.arrived} of {plural(run.expected, 'row')}, {mark}")
    if wrong:
        say("`jobspec relay` sends missing rows; docs/relay.md lists other causes")
    click.get_current_context().exit(1 if wrong else 0)
