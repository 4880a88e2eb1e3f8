"""`jobspec new`."""

from __future__ import annotations

from pathlib import Path

import click

from jobspec.benchmarks import DEFAULT
from jobspec.cli.common import common, wants_json
from jobspec.cli.output import emit, say, warn
from jobspec.spec import builder as specs_new


def split_names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """A comma-separated option's names."""
    return tuple(name.strip() for name in (value or "").split(",") if name.strip())


@click.command(no_args_is_help=True)
@click.option("--model", "models", required=True, multiple=True, help="Hub name or directory.")
@click.option("--learning-rate", "rates", type=float, multiple=True, help="[default: 1e-5]")
@click.option("--epochs", type=float, help="[default: 8]")
@click.option(
    "--benchmarks", callback=split_names, help=f"Comma-separated. [default: {','.join(DEFAULT)}]"
)
@click.option(
    "--data", help=f"JSONL of `messages`. [default: $JOBSPEC_DATA or {specs_new.DEFAULT_DATA}]"
)
@click.option("--name", help="Of a grid: what all names begin with. [default: from model and rate]")
@click.option("--set", "settings", metavar="K=V", multiple=True, help="Any field: train.seed=7.")
@click.option("--smoke", is_flag=True, help="A run of minutes: 1 epoch, 64 rows, 2 questions.")
@click.option("--no-train", is_flag=True, help="Score the model as it is: the base line.")
@click.option(
    "-o", "directory", type=click.Path(path_type=Path), default="specs", show_default=True
)
@common
def new(
    models: tuple[str, ...],
    rates: tuple[float, ...],
    directory: Path,
    no_train: bool,
    **rest: object,
) -> None:
    """Write spec files, one an experiment; several models or rates make their grid.

    \b
    jobspec new --model allenai/Olmo-3-7B-Think
    jobspec new --model Qwen/Qwen3-8B --learning-rate 1e-5 --learning-rate 5e-6
    jobspec new --model ./tiny --smoke --set train.global_batch_size=4

    Nothing is ever overwritten. Prints the paths.
    """
    request = specs_new.Request(
        models=models,
        learning_rates=rates,
        train=not no_train,
        **rest,  # pyright: ignore[reportArgumentType] - click names and types them as Request does
    )
    built = specs_new.build(request)
    written = specs_new.write(built, directory)
    for path, fresh in written:
        if not fresh:
            say(f"{path}: was there already, with the same content")
    for text in dict.fromkeys(filter(None, map(specs_new.missing_data, built))):
        warn(text)
    if wants_json():
        rows = [
            {"path": str(path), "name": spec.name, "written": fresh}
            for (path, fresh), spec in zip(written, built, strict=True)
        ]
        return emit({"specs": rows})
    for path, _ in written:
        click.echo(str(path))
    return None
