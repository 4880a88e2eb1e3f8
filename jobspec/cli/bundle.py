"""`jobspec bundle`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from jobspec.bundle import write_bundle
from jobspec.cli.common import common, complete_jobs, open_queue, wants_json
from jobspec.cli.output import emit, plural, say


@click.command()
@click.argument("job", shell_complete=complete_jobs)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Directory for the bundle.  [default: .]",
)
@click.option("--weights", is_flag=True, help="Include the trained weights, not only their hash.")
@click.option("--data", is_flag=True, help="Include the data files, not only their hash.")
@common
def bundle(job: str, output: Path, weights: bool, data: bool) -> None:
    """Write a run as a directory and a .tar.gz that a stranger can verify.

    \b
    jobspec bundle qwen3-8b-lr1e-5 -o /fs/project/me/published
    jobspec verify qwen3-8b-lr1e-5-0123456789.bundle.tar.gz

    It holds spec, manifest, metrics, samples, scores, model card and the ends of the logs, with
    SHA-256 sums, as an RO-Crate. Secrets, user names, host names and absolute paths are replaced by
    placeholders. Publish the fingerprint that is printed: it names exactly these files.
    """
    found = open_queue(write=False).job(job)
    written = write_bundle.write(found, output.absolute(), weights=weights, data=data)
    if wants_json():
        return emit({"bundle": asdict(written)})
    click.echo(
        f"{written.tar}: {plural(written.files, 'file')}, {written.tar_size / 2**20:,.2f} MiB"
    )
    click.echo(f"fingerprint {written.fingerprint}")
    if written.replaced:
        parts = ", ".join(f"{name} {count}×" for name, count in sorted(written.replaced.items()))
        say(f"replaced: {parts}")
    return None
