"""`jobspec verify`."""

from __future__ import annotations

from pathlib import Path

import click

from jobspec.bundle import verification
from jobspec.bundle.findings import BundleFinding, VerifiedBundle
from jobspec.cli.common import json_option, wants_json
from jobspec.cli.output import emit_struct

_COLOURS = {"ok": "green", "differs": "red", "unknown": "yellow"}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Data file that the bundle only names; may be repeated.",
)
@click.option(
    "--model",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory with the tokenizer, if the bundle has none.",
)
@json_option
def verify(bundle: Path, data: tuple[Path, ...], model: Path | None) -> None:
    """Check a bundle from anyone: a directory or a .tar.gz of `jobspec bundle`.

    \b
    jobspec verify qwen3-8b-lr1e-5-0123456789.bundle.tar.gz
    jobspec verify published.bundle --data train.jsonl --model models/Qwen3-8B

    It needs neither the root nor a GPU. It checks every hash, computes scores and intervals again
    from the samples and the cost from the attempts, and compares steps, losses, learning rates,
    sampling settings and seeds with the spec. With the worker's packages it also tokenizes the
    data, compares the loss masks, and grades the samples again. It lists what it cannot know.
    Nothing of the bundle is executed. Exit code 1: something differs.
    """
    found = verification.verify(bundle, data, model)
    if wants_json():
        emit_struct(found)
    else:
        _print(found)
    click.get_current_context().exit(0 if found.verified else 1)


def print_finding(each: BundleFinding) -> None:
    """One line; another one with the file of what differs."""
    outcome = click.style(f"{each.outcome:<8}", fg=_COLOURS[each.outcome])
    click.echo(f"{outcome} {each.check}: {each.detail}")
    if each.file is not None and each.outcome == "differs":
        click.echo(f"         in {each.file}")


def _print(found: VerifiedBundle) -> None:
    for each in found.findings:
        print_finding(each)
    click.echo(f"fingerprint {found.fingerprint}")
    outcome = "nothing differs" if found.verified else "NOT what it states"
    click.secho(f"{found.job}: {outcome}", bold=True)
