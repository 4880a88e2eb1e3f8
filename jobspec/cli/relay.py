"""`jobspec relay`: files → W&B."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jobspec.cli.common import common, jobs_argument, open_queue, wants_json
from jobspec.cli.output import emit, plural, say, warn
from jobspec.queue.entries import Job
from jobspec.queue.queue import Queue


@click.command()
@jobs_argument(required=False)
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, for tmux.")
@click.option("--offline", is_flag=True, help="Write the runs of ended jobs for `wandb sync`.")
@click.option("--verify", is_flag=True, help="Send nothing; compare what arrived with the files.")
@click.option("--settled", is_flag=True, help="Only rows that no later attempt can supersede.")
@click.option("--project", help="Instead of the specs' tracking.project.")
@click.option("--entity", help="Instead of the specs' tracking.entity.")
@click.option("--resend", is_flag=True, help="Send what was deleted there again, as new runs.")
@click.option("--interval", type=click.FloatRange(0.05), default=15.0, help="Of --watch, seconds.")
@click.option("--grace", type=click.FloatRange(0), default=15.0, hidden=True)
@click.option("--stall", type=click.FloatRange(0), default=180.0, hidden=True)
@common
def relay(jobs: tuple[str, ...], **how: Any) -> None:
    """Send the jobs' curves and scores to W&B, each row once.

    \b
    jobspec relay --watch                  in tmux, on a login node
    jobspec relay                          what there is now, for cron
    jobspec relay 'qwen3-*' --offline      runs on disk, for `wandb sync`
    jobspec relay --verify                 is all of it there?

    Needs the extra `relay` (pip install 'jobspec[relay]') and a key in WANDB_API_KEY or ~/.netrc.
    It may be killed at any moment and started again. One relay runs a root.
    """
    queue = open_queue()

    def select() -> list[Job]:
        return queue.select(jobs) if jobs else queue.jobs()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if how["verify"]:
        return _verify(queue, select, how)
    from jobspec.relay.lock import sole

    with sole(queue.paths, queue.format) as writer:
        if how["offline"]:
            return _offline(queue, select, how, writer.beat)
        _online(queue, select, how | {"named": bool(jobs)}, writer)
    return None


def _online(
    queue: Queue, select: Callable[[], list[Job]], how: dict[str, Any], writer: Any
) -> None:
    from jobspec.relay.online import Relay

    sender = Relay(queue, _options(select, how), writer, warn)
    try:
        while True:
            done = sender.once()
            if done and not how["watch"]:
                break
            sender.rest(sender.pause_s)
    except KeyboardInterrupt:
        say("stopped; what had not arrived yet is sent by the next relay")
    finally:
        sender.close()
    rows = sum(sender.arrived.values())
    if wants_json():
        emit({"runs": sender.arrived, "problems": list(sender.problems.values())})
    else:
        say(f"{plural(len(sender.arrived), 'run')} looked at, {plural(rows, 'row')} at W&B")
    click.get_current_context().exit(1 if sender.problems else 0)


def _options(select: Callable[[], list[Job]], how: dict[str, Any]) -> Any:
    from jobspec.relay.online import Options
    from jobspec.relay.sync import Timing

    return Options(
        select=select,
        project=how["project"],
        entity=how["entity"],
        settled=how["settled"],
        resend=how["resend"],
        everything=how.get("named", False),
        interval_s=how["interval"],
        timing=Timing(grace_s=how["grace"], stall_s=how["stall"], watch=how["watch"]),
    )


def _offline(
    queue: Queue, select: Callable[[], list[Job]], how: dict[str, Any], beat: Callable[[], None]
) -> None:
    from jobspec.relay.client import connect
    from jobspec.relay.offline import Offline

    problems: list[str] = []
    made: list[Path] = []

    def trouble(text: str) -> None:
        if text not in problems:
            problems.append(text)
            warn(text)

    link = connect(offline=True)
    writer = Offline(queue.paths, link, trouble)
    try:
        while True:
            beat()
            made += writer.write(select(), beat)
            if not how["watch"]:
                break
            time.sleep(min(how["interval"], queue.format.heartbeat_s))
    except KeyboardInterrupt:
        pass
    finally:
        link.kill()
    if wants_json():
        emit({"written": [str(path) for path in made], "problems": problems})
    else:
        for path in made:
            click.echo(path)
        say(f"{plural(len(made), 'run')} written; send them: wandb sync {writer.dir}/offline-run-*")
    click.get_current_context().exit(1 if problems else 0)


def _verify(queue: Queue, select: Callable[[], list[Job]], how: dict[str, Any]) -> None:
    from jobspec.relay.verify_main import audit

    found = audit(queue, select(), offline=how["offline"], options=_options(select, how))
    wrong = [each for each in found if not each.is_exact]
    if wants_json():
        import msgspec

        emit({"runs": msgspec.to_builtins(found), "exact": not wrong})
    else:
        for each in found:
            mark = click.style("exact", fg="green") if each.is_exact else each.in_words
            click.echo(f"{each.run}: {each.arrived} of {plural(each.expected, 'row')}, {mark}")
    if wrong:
        say("`jobspec relay` sends what is missing; docs/relay.md says what else it may be")
    click.get_current_context().exit(1 if wrong else 0)
