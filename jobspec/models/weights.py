"""Refuses model weights stored as pickles: loading a pickle can run any code."""

from __future__ import annotations

from pathlib import Path

from jobspec.errors import ModelError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


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
