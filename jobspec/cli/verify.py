"""`jobspec verify`."""

from __future__ import annotations

from pathlib import Path

import click

from jobspec.bundle import verification
from jobspec.bundle.findings import VerifiedBundle
from jobspec.cli.common import json_option, wants_json
from jobspec.cli.output import emit_struct

_COLOURS = {"ok": "green", "differs": "red", "unknown": "yellow"}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def verify(bundle: Path) -> None:
    """Check a bundle from anyone: a directory or a .tar.gz of `jobspec bundle`.

    \b
    jobspec verify qwen3-8b-lr1e-5-0123456789.bundle.tar.gz

    It needs neither the root nor a GPU. It checks every hash, computes scores and intervals again
    from the samples, and compares steps, losses and learning rates with the spec. It lists what it
    cannot know. Nothing of the bundle is executed. Exit code 1: something differs.
    """
    found = verification.verify(bundle)
    if wants_json():
        emit_struct(found)
    else:
        _print(found)
    click.get_current_context().exit(0 if found.verified else 1)


def _print(found: VerifiedBundle) -> None:
    for each in found.findings:
        outcome = click.style(f"{each.outcome:<8}", fg=_COLOURS[each.outcome])
        click.echo(f"{outcome} {each.check}: {each.detail}")
        if each.file is not None and each.outcome == "differs":
            click.echo(f"         in {each.file}")
    click.echo(f"fingerprint {found.fingerprint}")
    outcome = "nothing differs" if found.verified else "NOT what it states"
    click.secho(f"{found.job}: {outcome}", bold=True)
