"""Checks a model's weights without loading them: no pickles, and complete safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import ModelError
from jobspec.models import config

# What families call the module that embeds the tokens.
TOKEN_EMBEDDINGS = frozenset(
    {"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embeddings"}
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100 << 20  # the format's own limit


class _Tensor(msgspec.Struct, frozen=True):
    """One entry of a safetensors header: the bytes `data_offsets[0]` to `data_offsets[1]`."""

    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def tensor_shapes(directory: Path, *, file: Path | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a model's safetensors files, from their headers.

    Args:
        directory: the model's.
        file: the spec that names the directory, for the message.

    Raises:
        ModelError: a file is truncated, damaged or missing. Reading the headers takes milliseconds.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _listed(directory, file):
        try:
            shapes |= _header(path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"`{path}` is damaged: {error}",
                file=file,
                place="$.model.name",
                hint="copy or fetch the weights again",
            ) from error
    return shapes


def count_embedded_tokens(directory: Path) -> int | None:
    """The number of tokens that a model embeds, by its weights, else by its config.json.

    A few families embed more tokens than their `vocab_size`. None if neither file says it.
    """
    rows = [
        shape[0]
        for name, shape in tensor_shapes(directory).items()
        if len(shape) == 2 and name.split(".")[-2:-1] and name.split(".")[-2] in TOKEN_EMBEDDINGS
    ]
    return max(rows, default=config.read(directory).vocabulary)


def _listed(directory: Path, file: Path | None) -> list[Path]:
    """The safetensors files of the model: those that its index names, else all."""
    index = directory / _INDEX
    if not index.is_file():
        return sorted(directory.glob("*.safetensors"))
    try:
        names = msgspec.json.decode(index.read_bytes(), type=dict[str, Any])["weight_map"].values()
    except (msgspec.MsgspecError, KeyError, AttributeError) as error:
        raise ModelError(f"`{index}` is damaged: {error}", file=file) from error
    files = sorted({directory / str(name) for name in names})
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelError(
            f"`{directory}` lacks {len(missing)} of its {len(files)} files of weights: "
            f"{', '.join(missing[:3])}",
            file=file,
            place="$.model.name",
            hint="copy or fetch the weights again",
        )
    return files


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of one file. Raises ValueError if they do not fill it exactly.

    Source: the description of the format in the safetensors repository.
    """
    with path.open("rb") as stream:
        size = path.stat().st_size
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"its header should have {length:,} bytes, the file has {size:,}")
        header = stream.read(length)
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(raw, type=_Tensor) for name, raw in entries.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"its header is not valid ({error})") from error
    end = max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"it should have {8 + length + end:,} bytes and has {size:,}")
    return {name: tensor.shape for name, tensor in tensors.items()}


def refuse_pickles(directory: Path, *, file: Path | None = None) -> None:
    """Raise ModelError if a directory has weights as pickles and none as safetensors.

    Args:
        file: the spec that names the directory, for the message.
    """
    if any(directory.glob("*.safetensors")):
        return
    found = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    found = [name for name in found if name != "training_args.bin"]
    if found:
        raise ModelError(
            f"`{directory}` has its weights as pickles (`{found[0]}`), which can run any code",
            file=file,
            place="$.model.name",
            hint="load it where you trust it and save it with `save_pretrained`: safetensors",
        )
