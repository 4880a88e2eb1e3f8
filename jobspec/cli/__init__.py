"""The command line. `jobspec --help` imports this module and click, nothing else of ours.

Each verb lives in a module of its own group, imported when it is invoked; its line in the help
stands in the table below, so that listing the commands costs no imports.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from jobspec.cli.common import JSON_KEY, colour, completion, root_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# command → (module below jobspec.cli, help line), by section and in the order people meet them.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Write and check": {
        "new": ("new", "Write spec files: one experiment each, or a grid."),
        "validate": ("specs", "Check specs as enqueue does, enqueue nothing."),
        "preview": ("specs", "Show what one row of the data trains."),
        "schema": ("specs", "Print the JSON Schema of a spec."),
        "benchmarks": ("benchmarks", "List benchmarks, and where their questions are."),
    },
    "Run": {
        "fetch": ("fetch", "Download models and benchmarks for workers without network."),
        "enqueue": ("specs", "Check specs, then put them into the queue."),
        "eval": ("eval", "Score any model, as a job of its own."),
        "calibrate": ("calibrate", "Score base models, hold them against published scores."),
        "cancel": ("jobs", "Cancel pending or running jobs."),
        "retry": ("jobs", "Put failed or cancelled jobs back."),
        "prioritize": ("jobs", "Change the priority of pending jobs."),
        "hold": ("jobs", "Let nobody claim anything."),
        "release": ("jobs", "Lift the hold."),
        "demo": ("demo", "The whole way on this machine, in minutes."),
    },
    "On a cluster": {
        "setup": ("cluster", "Write the site's settings for batch scripts."),
        "submit": ("cluster", "Submit workers to Slurm as an array."),
        "scale": ("cluster", "Keep as many workers as the queue needs."),
    },
    "See": {
        "status": ("status", "What runs, what waits, what ended and why."),
        "show": ("show", "All that is known of one job."),
        "logs": ("logs", "A job's log; -f follows it."),
        "results": ("results", "Scores of finished jobs, best marked."),
        "compare": ("compare", "Two jobs' scores, paired by question."),
        "report": ("report", "One HTML page of curves, scores and times."),
        "serve": ("serve", "The same page live, for a tunnel."),
        "samples": ("samples", "What a model answered, and how it was judged."),
        "rescore": ("rescore", "Score ended jobs again from their samples."),
        "relay": ("relay", "Send curves and scores to W&B, each row once."),
        "wait": ("wait", "Wait until jobs end; the exit code says how."),
    },
    "Look after workers": {
        "workers": ("workers", "Who works, who idles, who is silent."),
        "drain": ("jobs", "Let workers finish and claim nothing more."),
        "reap": ("jobs", "Take back the claims of dead workers."),
        "quarantine": ("workers", "List, add or clear hosts set aside."),
        "archive": ("archive", "Copy ended jobs off scratch, with checksums."),
        "du": ("disk", "What jobs take on disk, and what is free."),
        "gc": ("disk", "Drop what ended jobs need no more."),
        "fsck": ("jobs", "Rebuild the queue's entries from jobs/."),
        "doctor": ("doctor", "Measure the root, say what to change."),
    },
}
COMMANDS = {name: where for section in SECTIONS.values() for name, where in section.items()}


class Commands(click.Group):
    """A group that imports a command's module when the command is invoked."""

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
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        also = f" Did you mean `{near[0]}`?" if near else ""
        raise click.UsageError(f"No such command `{name}`.{also}", ctx)

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
        """Run the command; an error a person can put right becomes a message and exit code 1."""
        from jobspec.errors import JobspecError

        try:
            return super().invoke(ctx)
        except JobspecError as error:
            from jobspec.cli.output import complain

            complain([error], as_json=bool(ctx.meta.get(JSON_KEY)))
            ctx.exit(1)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from jobspec.version import describe

        click.echo(describe())
        ctx.exit()


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="ROOT is --root, else $JOBSPEC_ROOT, else ./jobspec-root.",
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
    help='Print the shell\'s completion script: eval "$(jobspec --completion bash)".',
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Fine-tuning runs as immutable specs in a queue made of files.

    \b
    jobspec new --model Qwen/Qwen3-8B      writes specs/qwen3-8b-lr1e-5.json
    jobspec enqueue specs/*.json           checks it, puts it into the queue
    jobspec status --watch                 shows how far it is
    """
    ctx.color = colour()


def main() -> None:
    """The `jobspec` command."""
    cli(prog_name="jobspec")


if __name__ == "__main__":
    sys.exit(main())
