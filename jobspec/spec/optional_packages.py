"""Which fields of a spec need a package that is not always installed."""

from __future__ import annotations

from pathlib import Path

from jobspec.errors import SpecError
from jobspec.spec.schema import JobSpec

TORCHAO = "torchao"
_INSTALL_TORCHAO = "pip install 'jobspec[gpu]'"


def needs_torchao(spec: JobSpec) -> tuple[str, str] | None:
    """The place and the value that need torchao; None if nothing does."""
    train = spec.train
    if train is not None and train.optim == "adamw_8bit":
        return "$.train.optim", train.optim
    if train is not None and train.precision == "float8":
        return "$.train.precision", train.precision
    return None


def missing_torchao(spec: JobSpec, *, file: Path | None = None) -> SpecError:
    """The refusal of a spec that needs torchao, where it is not installed."""
    place, value = needs_torchao(spec) or ("$", "it")
    return SpecError(
        f"`{value}` needs the package `{TORCHAO}`, which is not installed here",
        file=file,
        place=place,
        hint=f"run `{_INSTALL_TORCHAO}` where workers run, or choose another value",
    )


def missing_gpu() -> SpecError:
    """The refusal of a spec that trains in float8, where there is no GPU."""
    return SpecError(
        "`float8` needs a GPU of NVIDIA's Hopper generation or a newer one; there is none here",
        place="$.train.precision",
        hint="leave precision out to train in bfloat16",
    )
