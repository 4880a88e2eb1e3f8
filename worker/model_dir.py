"""A model's directory on this machine, and the facts in its JSON files. No heavy imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import ModelError
from jobspec.models.weights import refuse_pickles
from jobspec.spec.schema import ModelSpec
from jobspec.storage.layout import RootPaths

_FETCH = "`jobspec fetch SPEC` brings it into the root's cache, on a node with network"


def find_model(model: ModelSpec, root: RootPaths) -> Path:
    """The directory a model name stands for: the directory itself, or a snapshot in the hub cache.

    Raises:
        ModelError: there is none here, or it has no `config.json`.
    """
    directory = Path(model.name).expanduser()
    if not directory.is_dir():
        directory = _snapshot(model, root)
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"`{model.name}` is no model directory: it has no config.json",
            file=directory,
            place="$.model.name",
            hint="name a directory with config.json, tokenizer and safetensors weights",
        )
    refuse_pickles(directory)
    return directory


def max_positions(directory: Path) -> int | None:
    """The longest sequence a model has positions for; None where its config does not say."""
    config = read_json(directory / "config.json")
    config = {**config, **(config.get("text_config") or {})}
    found = [config.get(key) for key in ("max_position_embeddings", "n_positions", "max_seq_len")]
    limits = [value for value in found if isinstance(value, int) and value > 0]
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    original = scaling.get("original_max_position_embeddings")
    if limits and isinstance(original, int):
        limits.append(int(original * float(scaling.get("factor") or 1)))
    return max(limits, default=None)


def eos_of(directory: Path) -> list[int]:
    """The ids at which generation ends: generation_config's, else the config's own."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if path.is_file():
            config = read_json(path)
            inner = config.get("text_config") or {}
            value = config.get("eos_token_id", inner.get("eos_token_id"))
            ids = value if isinstance(value, list) else [value]
            ids = [token for token in ids if isinstance(token, int)]
            if ids:
                return ids
    return []


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model directory. Raises ModelError, naming the file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(
            f"can't be read: {error}", file=path, hint="fetch the model again; its copy is damaged"
        ) from error


def _snapshot(model: ModelSpec, root: RootPaths) -> Path:
    """A revision's directory in the hub cache, whose layout huggingface_hub documents."""
    repository = root.hub / f"models--{model.name.replace('/', '--')}"
    revision = model.revision or "main"
    reference = repository / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    if snapshot.is_dir():
        return snapshot
    at = f" at revision `{revision}`" if model.revision else ""
    raise ModelError(
        f"`{model.name}`{at} is neither a directory nor in this root's cache ({root.hub})",
        place="$.model.name",
        hint=_FETCH,
    )
