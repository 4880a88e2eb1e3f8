"""Options that all commands share, and shell completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from jobspec.queue.job import Job
    from jobspec.queue.queue import Queue

F = TypeVar("F", bound=Callable[..., Any])
ROOT_KEY = "jobspec.queue.root"
JSON_KEY = "jobspec.json"
CREATE_KEY = "jobspec.queue.create"
STATES = ("pending", "running", "succeeded", "failed", "cancelled")


def _remember_root(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.meta[ROOT_KEY] = value


def _remember_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[JSON_KEY] = True


def _remember_create(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[CREATE_KEY] = True


root_option = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    expose_value=False,
    callback=_remember_root,
    is_eager=True,
    help="Directory of the queue.  [default: $JOBSPEC_ROOT, or jobspec-root]",
)
json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_remember_json,
    is_eager=True,
    help="Print a JSON object instead of text.",
)
create_option = click.option(
    "--create",
    is_flag=True,
    expose_value=False,
    callback=_remember_create,
    help="Create a queue here, with its parent directories.",
)
state_option = click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only jobs in this state; may be repeated.",
)


priority_option = click.option(
    "--priority",
    type=click.IntRange(0, 999),
    default=50,
    show_default=True,
    help="Workers claim jobs of higher priority first.",
)


def common(command: F) -> F:
    """Give a command `--root` and `--json`; read them with `current_root()` and `wants_json()`."""
    return json_option(root_option(command))


def given_root() -> Path | None:
    """The value of --root; None if it was not given."""
    return click.get_current_context().meta.get(ROOT_KEY)


def current_root() -> Path:
    """--root, or $JOBSPEC_ROOT, or ./jobspec-root."""
    return Path(given_root() or os.environ.get("JOBSPEC_ROOT") or "jobspec-root")


def wants_json() -> bool:
    return bool(click.get_current_context().meta.get(JSON_KEY))


def open_queue(*, write: bool = True) -> Queue:
    """The queue at the current root; `write=False` to read it only. Raises RootError."""
    from jobspec.queue.queue import Queue

    return Queue(current_root(), write=write)


def create_queue() -> Queue:
    """The queue at the current root, created if there is none and it was not a mistake.

    Raises:
        RootError: there is no queue, and the root's parent is missing or the site's settings name
            this root; then its filesystem may not be mounted.
    """
    from jobspec.queue.queue import Queue
    from jobspec.storage import fs
    from jobspec.storage.layout import RootPaths

    root = current_root().absolute()
    if fs.exists(RootPaths(root).format):
        return Queue.create(root)
    if not click.get_current_context().meta.get(CREATE_KEY):
        _refuse_to_create(root)
    queue = Queue.create(root)
    click.echo(f"created a queue in {root}", err=True)
    return queue


def _refuse_to_create(root: Path) -> None:
    """Raise RootError if there should be a queue already, or the path looks mistyped."""
    from jobspec.cluster import site
    from jobspec.errors import JobspecError, RootError

    hint = "mount its filesystem or correct the path; `--create` creates a queue here"
    if not root.parent.exists():
        raise RootError("there is no queue, and no directory for one", file=root, hint=hint)
    try:
        file = site.default_file()
        settled = Path(site.read(file).root)
    except JobspecError:
        return
    if settled.resolve() == root.resolve():
        raise RootError(f"there is no queue, but {file} names this root", file=root, hint=hint)


def colour() -> bool | None:
    """False under NO_COLOR or in a dumb terminal, True under FORCE_COLOR.

    Otherwise None: click looks at the stream.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return False if os.environ.get("TERM") == "dumb" else None


def completion(ctx: click.Context, _: click.Parameter, shell: str | None) -> None:
    """Print click's completion script for `shell`."""
    if shell is None or ctx.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"No completion for `{shell}`.")
    script = kind(ctx.command, {}, "jobspec", "_JOBSPEC_COMPLETE").source()
    # click's script for fish splits `type,value<tab>help` at every comma, even those in the help.
    click.echo(script.replace('string split "," ', 'string split --max 1 "," '))
    ctx.exit()


def complete_jobs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Job ids that begin with `incomplete`; none if there is no queue."""
    from jobspec.errors import JobspecError

    try:
        with ctx.scope(cleanup=False):
            jobs = open_queue(write=False).jobs()
    except (JobspecError, OSError):
        return []
    return sorted(job.id for job in jobs if job.id.startswith(incomplete))


def complete_workers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Worker ids that begin with `incomplete`; none if there is no queue."""
    from jobspec.errors import JobspecError

    try:
        with ctx.scope(cleanup=False):
            seen = open_queue(write=False).workers()
    except (JobspecError, OSError):
        return []
    return [each.worker for each in seen if each.worker.startswith(incomplete)]


def chosen_jobs(queue: Queue, patterns: Sequence[str], states: Sequence[str] = ()) -> list[Job]:
    """The jobs that match the patterns and states; without patterns, of all jobs.

    Raises:
        JobNotFound: a pattern matches no job.
    """
    named = queue.select(patterns) if patterns else queue.jobs()
    return [job for job in named if not states or job.state.value in states]


def jobs_argument(*, required: bool = True) -> Callable[[F], F]:
    """The argument `JOB`, which may be repeated: ids, unique prefixes or globs."""
    return click.argument(
        "jobs",
        metavar="JOB..." if required else "[JOB]...",
        nargs=-1,
        required=required,
        shell_complete=complete_jobs,
    )
