"""`jobspec notify`: report failures, the end of all jobs, missing workers and a full disk."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import click

from jobspec.cli.common import common, open_queue, wants_json
from jobspec.cli.output import emit, say, warn
from jobspec.monitoring import destinations
from jobspec.monitoring.destinations import Destination

if TYPE_CHECKING:
    from jobspec.queue.queue import Queue

_LEASE_S = 90.0  # longer than a message takes to send


@click.command()
@click.option(
    "--webhook",
    metavar="URL",
    envvar="JOBSPEC_WEBHOOK",
    show_envvar=True,
    help="Send a POST request to Slack, Mattermost, Discord, ntfy or your own server.",
)
@click.option("--mail", metavar="ADDRESS", help="Send mail with this host's sendmail program.")
@click.option(
    "--command",
    metavar="COMMAND",
    help="Run a shell command with the text on stdin and JOBSPEC_EVENT, JOBSPEC_TITLE, "
    "JOBSPEC_TEXT and JOBSPEC_ROOT in its environment.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(destinations.WEBHOOK_FORMATS),
    default="auto",
    show_default=True,
    help="The body of the request to a webhook; auto decides by the host's name.",
)
@click.option("--once", is_flag=True, help="Report what is due and exit, for cron.")
@click.option(
    "--interval",
    type=click.FloatRange(0.05),
    default=15.0,
    show_default=True,
    help="Seconds between reads of the queue.",
)
@click.option(
    "--disk-free",
    type=click.FloatRange(0, 50),
    default=5.0,
    show_default=True,
    help="Report a disk with less than this percentage of free space or inodes.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=600.0,
    show_default=True,
    help="Seconds without a live worker before that is reported.",
)
@common
def notify(**options: Any) -> None:
    """Report failed jobs, the end of all jobs, missing workers and a full disk.

    \b
    jobspec notify --webhook https://ntfy.sh/my-topic     keep running, in tmux
    jobspec notify --mail me@uni.edu --once               for cron

    It reports each event once per destination, also after it was killed. What happened before the
    first start is not reported. Put a secret URL into JOBSPEC_WEBHOOK, where `ps` does not show it.
    """
    destination = _destination(options)
    queue = open_queue()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        told: set[str] = set()
        while not _serve(queue, destination, options, told):
            time.sleep(min(options["interval"], _LEASE_S / 4))
    except KeyboardInterrupt:
        say("stopped; the next notifier goes on where this one was")


def _destination(options: dict[str, Any]) -> Destination:
    given = [name for name in ("mail", "command") if options[name] is not None]
    if not given and options["webhook"] is not None:
        return destinations.Webhook(options["webhook"], options["form"])
    if len(given) != 1 or _webhook_on_the_command_line(options):
        raise click.UsageError("Give one of --webhook, --mail and --command.")
    if given == ["mail"]:
        return destinations.Mail(options["mail"])
    return destinations.Command(options["command"])


def _webhook_on_the_command_line(options: dict[str, Any]) -> bool:
    source = click.get_current_context().get_parameter_source("webhook")
    return options["webhook"] is not None and source is click.core.ParameterSource.COMMANDLINE


def _serve(queue: Queue, destination: Destination, options: dict[str, Any], told: set[str]) -> bool:
    """Report until Ctrl-C, or once. Returns False to try again: another notifier does it now, or
    the root does not answer. `told` has the messages that were shown.
    """
    from jobspec.errors import RootError
    from jobspec.storage import fs
    from jobspec.storage.handover_lock import Fenced, LockHeld

    try:
        if not fs.exists(queue.paths.format):  # not mounted: nothing must be created in its place
            raise RootError("there is no queue here now", file=queue.paths.root)
        _report(queue, destination, options)
    except (LockHeld, Fenced) as other:
        if options["once"]:
            say(str(other))
            if wants_json():
                emit({"sent": [], "problems": []})
            return True
        _warn_once(f"{other.message}; waiting to take over", told)
    except (OSError, RootError) as error:
        if options["once"]:
            raise
        _warn_once(f"{error}; trying again until it answers", told)
    return False


def _warn_once(text: str, told: set[str]) -> None:
    if text not in told:
        told.add(text)
        warn(text)


def _report(queue: Queue, destination: Destination, options: dict[str, Any]) -> None:
    """Hold the destination's lock and report; with --once it ends the command."""
    from jobspec.monitoring.events import Watch
    from jobspec.monitoring.notifier import Notifier
    from jobspec.storage import handover_lock

    paths, layout = queue.paths.notices(destination.key), queue.format
    lease_s = max(_LEASE_S, layout.lease_s)
    with handover_lock.acquire(
        paths.lock, "notifier", heartbeat_s=layout.heartbeat_s, lease_s=lease_s
    ) as lock:
        watch = Watch(queue, paths, free_percent=options["disk_free"], grace_s=options["grace"])
        notifier = Notifier(queue, destination, watch, lock, warn, options["interval"])
        while True:
            reported = len(notifier.sent)
            notifier.report()
            for title in notifier.sent[reported:] if not wants_json() else ():
                click.echo(f"reported to {destination.name}: {title}")
            if options["once"]:
                break
            notifier.rest()
    if wants_json():
        emit({"sent": notifier.sent, "problems": notifier.problems})
    click.get_current_context().exit(1 if notifier.problems else 0)
