"""Where a model's files are on this machine: a directory, or a snapshot in the root's hub cache."""

from __future__ import annotations

from pathlib import Path

from jobspec.errors import ModelError
from jobspec.models.config import CONFIG
from jobspec.models.weights import refuse_pickles
from jobspec.spec.schema import ModelSpec
from jobspec.storage.layout import RootPaths


def is_path(name: str) -> bool:
    """Whether a model's name means a directory on this machine rather than a name on the hub."""
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        return True  # a hub name has one slash at most
    return Path(name).is_dir()


def locate(model: ModelSpec, root: RootPaths) -> Path | None:
    """Return the model's directory without looking into it; None if the hub cache lacks it."""
    if is_path(model.name):
        return Path(model.name).expanduser()
    return _snapshot(model, root)


def find_model(model: ModelSpec, root: RootPaths) -> Path:
    """Return the directory of a model that can be loaded.

    Raises:
        ModelError: there is none here, it has no `config.json`, or its weights are pickles.
    """
    directory = locate(model, root)
    if directory is None or not directory.is_dir():
        at = f" at revision `{model.revision}`" if model.revision else ""
        raise ModelError(
            f"`{model.name}`{at} is neither a directory nor in this root's cache ({root.hub})",
            place="$.model.name",
            hint="`jobspec fetch SPEC` downloads it into the root's cache, on a node with network",
        )
    if not (directory / CONFIG).is_file():
        raise ModelError(
            f"`{model.name}` is no model directory: it has no config.json",
            file=directory,
            place="$.model.name",
            hint="name a directory with config.json, tokenizer and safetensors weights",
        )
    refuse_pickles(directory)
    return directory


def _snapshot(model: ModelSpec, root: RootPaths) -> Path | None:
    """A revision's directory in the hub cache.

    Source: huggingface_hub's documentation of its cache.
    """
    repository = root.hub / f"models--{model.name.replace('/', '--')}"
    revision = model.revision or "main"
    reference = repository / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None
