"""The model and the rows that a route uses.

    python -m benchmarks.gpu.inputs DIR [--toy] [--whole]

The model has the layer shapes of Olmo-3-7B and random weights; its depth is as many layers as fit
on an 80 GB card beside their optimizer states, or with `--whole` all of them. Full rows have the
greatest length; mixed rows have the lengths of real reasoning traces (log-normal, median 1,177
tokens, mean about 1,900).
"""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobspec.models.decoder_shape import KNOWN_CONFIGS

STEPS = 4
WARM_UP = 2  # steps that are not counted


@dataclass(frozen=True)
class Size:
    """How large everything is: as measured on a card, or as tried on a CPU."""

    shape: dict[str, Any]
    layers: int
    all_layers: int
    max_length: int
    median_length: int
    rows: dict[str, int]  # in a step
    prompts: int
    prompt_tokens: int
    generated_tokens: int
    dtype: str


_OLMO = KNOWN_CONFIGS["allenai/Olmo-3-7B-Think"] | {
    "num_key_value_heads": 32,
    "max_position_embeddings": 65536,
    "tie_word_embeddings": False,
}
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "vocab_size": 260,
    "sliding_window": 32,
    "max_position_embeddings": 512,
}
REAL = Size(_OLMO, 8, 32, 8192, 1177, {"full": 8, "mixed": 16}, 64, 128, 256, "bfloat16")
TOY = Size(_OLMO | _TINY, 2, 3, 64, 32, {"full": 2, "mixed": 4}, 2, 8, 6, "float32")


def make(directory: Path, size: Size) -> None:
    """Write `model/`, `full/`, `mixed/`, and `facts.json`, which says what they are."""
    import torch

    model = _make_model(directory / "model", size)
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": size.layers,
        "rows": {kind: _make_rows(directory / kind, kind, size, model) for kind in size.rows},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    (directory / "facts.json").write_text(json.dumps(facts))


def _make_model(path: Path, size: Size) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from worker.demo import tiny_model

    shape = size.shape | {"num_hidden_layers": size.layers}
    if "layer_types" in shape:
        shape["layer_types"] = shape["layer_types"][: size.layers]
    kind = shape.pop("model_type")
    config = AutoConfig.for_model(kind, **shape, eos_token_id=0, pad_token_id=1, bos_token_id=None)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, size.dtype))
    model.save_pretrained(path)
    tiny_model.make_tokenizer().save_pretrained(path)
    return model


def _make_rows(directory: Path, kind: str, size: Size, model: Any) -> dict[str, float]:
    """Rows of random tokens of which the first eighth is context. Returns tokens and FLOPs."""
    import numpy as np
    from datasets import Dataset

    from jobspec.storage.layout import SplitPaths
    from worker.training.flops import FlopModel

    lengths = row_lengths(kind, size)
    rng = random.Random(1)
    rows, trained = [], []
    for number, length in enumerate(lengths, start=1):
        ids = [rng.randrange(2, 250) for _ in range(length)]
        context = max(1, length // 8)
        rows.append({"input_ids": ids, "labels": [-100] * context + ids[context:], "row": number})
        trained.append(length - context)
    Dataset.from_list(rows).save_to_disk(directory)
    np.save(SplitPaths(directory).counts, np.array([lengths, trained]))
    work = FlopModel.of(model).step(lengths, sum(trained))
    return {"tokens": sum(lengths), "flops": work}


def row_lengths(kind: str, size: Size) -> list[int]:
    """The tokens of every row, in order."""
    count = size.rows[kind] * STEPS
    if kind == "full":
        return [size.max_length] * count
    rng = random.Random(0)
    drawn = (rng.lognormvariate(math.log(size.median_length), 0.97) for _ in range(count))
    return [max(16, min(size.max_length, int(length))) for length in drawn]


def main() -> None:
    size = TOY if "--toy" in sys.argv else REAL
    if "--whole" in sys.argv:
        size = replace(size, layers=size.all_layers)
    make(Path(sys.argv[1]), size)


if __name__ == "__main__":
    main()
