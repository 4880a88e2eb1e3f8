"""The `jobspec` command. `jobspec --help` imports only this module, `common` and click.

Each command is in a module that is imported when the command runs. The table below has its line in
the help, so that listing the commands imports nothing.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from jobspec.cli.common import JSON_KEY, colour, completion, root_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

# command → (module below jobspec.cli, help line), by section, in the order in which they are used.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Write and check": {
        "new": ("new", "Write spec files: one experiment or a grid."),
        "validate": ("specs", "Check specs without enqueueing them."),
        "preview": ("preview", "Show the data: counts, duplicates, a row as trained."),
        "schema": ("specs", "Print the JSON Schema of a spec."),
        "audit": ("audit", "Test that killed trainings and samples repeat exactly."),
        "benchmarks": ("benchmarks", "List benchmarks, and where their questions are."),
    },
    "Run": {
        "fetch": ("fetch", "Download models and benchmarks for offline workers."),
        "enqueue": ("specs", "Check specs and put them into the queue."),
        "run": ("run", "Run specs on this machine, and show their scores."),
        "eval": ("eval", "Enqueue a job that only scores a model."),
        "calibrate": ("calibrate", "Compare base models' scores with published ones."),
        "cancel": ("jobs", "Cancel pending or running jobs."),
        "retry": ("jobs", "Run failed or cancelled jobs again."),
        "prioritize": ("jobs", "Change the priority of pending jobs."),
        "hold": ("jobs", "Stop all workers from claiming jobs."),
        "release": ("jobs", "Let workers claim jobs again."),
        "limit": ("jobs", "Limit how many jobs each user runs at once."),
        "demo": ("demo", "Train and score a tiny model on this machine."),
    },
    "On a cluster": {
        "setup": ("cluster", "Write the settings of this cluster."),
        "submit": ("cluster", "Submit workers to Slurm as a job array."),
        "scale": ("cluster", "Submit as many workers as the queue needs."),
    },
    "Inspect": {
        "status": ("status", "Show jobs, workers, and why jobs wait or failed."),
        "show": ("show", "Show one job: losses, scores, attempts, settings."),
        "logs": ("logs", "Print a job's log; -f follows it."),
        "results": ("results", "Show the scores of finished jobs."),
        "compare": ("compare", "Compare two jobs' scores question by question."),
        "report": ("report", "Write curves, scores and times to an HTML page."),
        "serve": ("serve", "Serve the report page live."),
        "samples": ("samples", "Show a model's answers and how they were scored."),
        "rescore": ("rescore", "Score stored samples again."),
        "export": ("export", "Write a model card, ready for the Hugging Face Hub."),
        "relay": ("relay", "Send curves and scores to W&B, TensorBoard, trackio."),
        "bundle": ("bundle", "Write a run for others to verify."),
        "verify": ("verify", "Check a bundle: hashes, scores, losses."),
        "replay": ("replay", "Run a bundle's spec again, and compare."),
        "wait": ("wait", "Wait until jobs have ended."),
        "notify": ("notify", "Report failures and more to a webhook, mail, command."),
    },
    "Maintain": {
        "workers": ("workers", "List workers and what they are doing."),
        "drain": ("jobs", "Let workers finish their job, then stop."),
        "reap": ("jobs", "Put the jobs of dead workers back."),
        "quarantine": ("workers", "Keep hosts from claiming jobs."),
        "archive": ("archive", "Copy ended jobs elsewhere, with checksums."),
        "du": ("disk", "Show disk usage by job, and free space."),
        "gc": ("disk", "Delete files that ended jobs no longer need."),
        "fsck": ("jobs", "Repair the queue from the jobs' directories."),
        "doctor": ("doctor", "Measure the root's filesystem; suggest settings."),
    },
}
# What people type for a command.
ALIASES = {"ls": "status", "check": "validate"}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Commands(click.Group):
    """A group that imports a command's module when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"jobspec.cli.{COMMANDS[cmd_name][0]}")
        return getattr(module, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = ALIASES.get(args[0], args[0])
        args = [name, *args[1:]]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        suggestion = f" Did you mean `{near[0]}`?" if near else ""
        raise click.UsageError(f"No such command `{name}`.{suggestion}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<10}", text) for name, (_, text) in section.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name][1]) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. An error that users can fix becomes a message and exit code 1.

        That includes the errors of filesystems, which name their path.
        """
        from jobspec.errors import JobspecError
        from jobspec.storage import patience

        patience.on_wait = _tell_of_wait()
        if os.environ.get("JOBSPEC_ALLOW_GROUP"):
            from jobspec.queue.root import restrict_umask

            restrict_umask()
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly
        except (JobspecError, OSError) as error:
            from jobspec.cli.output import complain
            from jobspec.storage.disk_errors import explain, is_of_filesystem

            if not isinstance(error, JobspecError) and not is_of_filesystem(error):
                raise  # a bug keeps its traceback
            shown = error if isinstance(error, JobspecError) else explain(error)
            complain([shown], as_json=bool(ctx.meta.get(JSON_KEY)))
            ctx.exit(1)


def _tell_of_wait() -> Callable[[OSError, float], bool]:
    """Says once, after two seconds, that a filesystem does not answer; then go on waiting."""
    told: list[str] = []

    def tell(error: OSError, waited_s: float) -> bool:
        if waited_s > 2.0 and not told:
            told.append(str(error.strerror))
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"{where}{error.strerror}; trying again for up to 90 s", err=True)
        return True

    return tell


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from jobspec.version import describe

        click.echo(describe())
        ctx.exit()


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="ROOT is --root, $JOBSPEC_ROOT or ./jobspec-root. COMMAND --help shows examples.",
)
@root_option
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Print this version, its commit and the packages it runs with.",
)
@click.option(
    "--completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    expose_value=False,
    is_eager=True,
    callback=completion,
    help='Print a completion script; use it with: eval "$(jobspec --completion bash)"',
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Fine-tune and score language models with workers that share a queue of files.

    \b
    jobspec new --model Qwen/Qwen3-8B    write specs/qwen3-8b-lr1e-5.json
    jobspec enqueue specs/*.json         check it and put it into the queue
    jobspec status --watch               show its progress
    """
    ctx.color = colour()


# What is written for a character that a locale without UTF-8 lacks; one for one, so that columns
# stay aligned.
_SIMILAR = dict(zip("…└█░▲×→−–—≈★━·", ".`#-!x>---~*-.", strict=True))


def _similar(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_SIMILAR.get(letter, "?") for letter in text), error.end


def _write_any_text() -> None:
    """Let stdout and stderr write similar characters where their encoding lacks one."""
    codecs.register_error("jobspec.similar", _similar)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="jobspec.similar")


def main() -> None:
    """The `jobspec` command. A full or closed stdout costs one line, not a traceback."""
    _write_any_text()
    try:
        cli(prog_name="jobspec")
    finally:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python fails again at its end


if __name__ == "__main__":
    sys.exit(main())
