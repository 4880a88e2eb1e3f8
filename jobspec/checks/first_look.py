"""The checks of `jobspec new`: those that take milliseconds.

What is certainly wrong is refused. What may be right where the workers run, such as a model's
directory that is not on this machine, is only remarked on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from jobspec.checks import benchmarks, rows
from jobspec.checks.check import with_absolute_paths
from jobspec.models import config
from jobspec.models.directory import find_model, is_path, locate
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths

MAX_LENGTH = "train.max_length"


def look_at(spec: JobSpec, root: Path, chosen: Collection[str]) -> tuple[JobSpec, list[str]]:
    """Check a new spec and complete it.

    Args:
        spec: as it was built.
        root: whose caches and benchmark files are looked into.
        chosen: dotted fields that the user set; they are not changed.

    Returns:
        The spec with absolute paths, and with a `max_length` that fits the model's context unless
        it was chosen; and remarks.

    Raises:
        JobspecError: a benchmark is unknown, a first row is no conversation, or the model's
            directory holds no model that can be loaded.
    """
    spec = with_absolute_paths(spec)
    _check_benchmarks(spec, root)
    if spec.data is not None:
        rows.check_first_lines(spec.data)
    context = _context_length(spec, root)
    remarks = list(_missing_model(spec))
    train = spec.train
    if train is None or context is None or train.max_length <= context or MAX_LENGTH in chosen:
        return spec, remarks
    remarks.append(
        f"{MAX_LENGTH} is {context:,}, the context of the model, instead of {train.max_length:,}"
    )
    fitting = msgspec.structs.replace(train, max_length=context)
    return msgspec.structs.replace(spec, train=fitting), remarks


def _missing_model(spec: JobSpec) -> Iterator[str]:
    if is_path(spec.model.name) and not Path(spec.model.name).is_dir():
        yield f"the model directory `{spec.model.name}` does not exist on this machine"


def _context_length(spec: JobSpec, root: Path) -> int | None:
    """The model's context; None if its files are not here or do not say."""
    directory = locate(spec.model, RootPaths(root))
    if directory is None or not directory.is_dir():
        return None
    return config.read(find_model(spec.model, RootPaths(root))).context_length


def _check_benchmarks(spec: JobSpec, root: Path) -> None:
    if spec.eval is not None:
        benchmarks.refuse_unknown(spec.eval, root)
