"""`jobspec export`."""

from __future__ import annotations

from pathlib import Path

import click

from jobspec.cli.common import common, complete_jobs, open_queue, wants_json
from jobspec.cli.output import emit
from jobspec.errors import JobspecError
from jobspec.maintenance import model_card
from jobspec.storage import fs
from jobspec.storage.disk_errors import explain
from jobspec.storage.layout import MODEL_CARD


@click.command()
@click.argument("job", shell_complete=complete_jobs)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to write README.md into.  [default: the job's final_model]",
)
@click.option("--force", is_flag=True, help="Replace a README.md that says something else.")
@common
def export(job: str, output: Path | None, force: bool) -> None:
    """Write a model card beside the trained model, ready for upload to the Hugging Face Hub.

    \b
    jobspec export qwen3-8b-lr1e-5
    hf upload me/my-model jobspec-root/jobs/JOB/final_model

    The card has settings, data hashes, losses, scores with intervals, and how to reproduce them. It
    names no user, host or directory; file names and the spec's name are in it.
    """
    found = open_queue(write=False).job(job)
    text = model_card.render(found).encode()
    path = ((output or found.paths.final_model) / MODEL_CARD).absolute()
    already = _published(path, text, force=force)
    if wants_json():
        return emit({"job": found.id, "file": str(path), "already": already})
    click.echo(f"{path}: {'already there' if already else 'written'}")
    return None


def _published(path: Path, text: bytes, *, force: bool) -> bool:
    """Publish the card; returns whether the same card was there. Raises JobspecError."""
    try:
        before = fs.read(path) if fs.exists(path) else None
        if before == text:
            return True
        if before is not None and not force:
            raise JobspecError(
                "there is another README.md, perhaps one that you have edited",
                file=path,
                hint="`--force` replaces it; `--output DIR` writes the card elsewhere",
            )
        fs.make_dir(path.parent)
        fs.publish(path, text)
    except OSError as error:
        raise explain(error) from error
    return False
