"""`jobspec new`."""

from __future__ import annotations

from pathlib import Path

import click

from jobspec.benchmarks import DEFAULT
from jobspec.checks import first_look
from jobspec.cli.common import common, current_root, wants_json
from jobspec.cli.output import emit, say, warn
from jobspec.spec import builder as specs_new
from jobspec.spec.schema import JobSpec, TrainSpec


def split_names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """The names in a comma-separated option."""
    return tuple(name.strip() for name in (value or "").split(",") if name.strip())


def split_rates(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> list[float]:
    """The learning rates of all options, each of which may have several, separated by commas."""
    try:
        return [float(rate) for text in given for rate in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{error}; write 1e-5 or 1e-5,5e-6") from error


benchmarks_option = click.option(
    "--benchmarks",
    metavar="NAMES",
    callback=split_names,
    help=f"Benchmarks to score on, separated by commas.  [default: {','.join(DEFAULT)}]",
)


@click.command(no_args_is_help=True)
@click.option(
    "--model",
    "models",
    metavar="MODEL",
    required=True,
    multiple=True,
    help="Hub name or directory of the model; may be repeated.",
)
@click.option(
    "--learning-rate",
    "--lr",
    "rates",
    metavar="RATES",
    multiple=True,
    callback=split_rates,
    help="Learning rates, separated by commas; may be repeated.  "
    f"[default: {TrainSpec().learning_rate:g}]",
)
@click.option(
    "--sweep",
    "sweeps",
    metavar="FIELD=VALUES",
    multiple=True,
    help="One spec for each value of a field, e.g. train.seed=1,2,3; may be repeated.",
)
@click.option(
    "--epochs",
    type=float,
    help=f"Epochs to train.  [default: {TrainSpec().num_train_epochs:g}]",
)
@benchmarks_option
@click.option(
    "--data",
    metavar="FILE",
    help=f"Training data, JSONL.  [default: $JOBSPEC_DATA, or {specs_new.DEFAULT_DATA}]",
)
@click.option(
    "--source",
    "sources",
    metavar="[NAME=]FILE[:REPEAT]",
    multiple=True,
    help="A file of a mixture and its repeats, or its weight (FILE:30%); may be repeated.",
)
@click.option(
    "--name",
    help="Name of the spec; in a grid, the prefix of all names.  [default: from model and rate]",
)
@click.option(
    "--set",
    "settings",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Set any field of the spec, e.g. train.seed=7; may be repeated.",
)
@click.option(
    "--smoke", is_flag=True, help="A run of a few minutes: 1 epoch, 64 rows, 2 questions."
)
@click.option("--no-train", is_flag=True, help="Only score the model, e.g. as a baseline.")
@click.option(
    "-o",
    "directory",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    default="specs",
    show_default=True,
    help="Where to write the specs.",
)
@common
def new(
    models: tuple[str, ...],
    rates: list[float],
    directory: Path,
    no_train: bool,
    **rest: object,
) -> None:
    """Write spec files: one experiment, or a grid of models, learning rates and other fields.

    \b
    jobspec new --model allenai/Olmo-3-7B-Think
    jobspec new --model Qwen/Qwen3-8B --lr 1e-5,5e-6 --sweep train.seed=1,2,3
    jobspec new --model ./tiny --smoke --set train.global_batch_size=4
    jobspec new --model ./tiny --source chat.jsonl --source math=gsm.jsonl.gz:2

    It prints the paths of the files and never overwrites one. Each spec contains every field, so
    that you can edit it; `jobspec enqueue` puts it into the queue. Paths are made absolute, and a
    default max_length that exceeds the context of a model on this machine is lowered.
    """
    request = specs_new.Request(
        models=models,
        learning_rates=rates,
        train=not no_train,
        **rest,  # pyright: ignore[reportArgumentType] - click names and types them as Request does
    )
    built: list[JobSpec] = []
    for spec in specs_new.build(request):
        looked_at, remarks = first_look.look_at(spec, current_root(), request.fields_set())
        built.append(looked_at)
        for remark in remarks:
            warn(f"{spec.name}: {remark}")
    written = specs_new.write(built, directory)
    for path, fresh in written:
        if not fresh:
            say(f"{path} exists already, with the same content")
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
