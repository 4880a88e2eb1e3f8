"""Models of Olmo-3's layers, and the rows, that benchmarks/train.py and memory.py train.

    python -m benchmarks.small DIR ROWS MAX_LENGTH [LAYERS HIDDEN_SIZE]

The rows are texts of random words with the lengths of real reasoning traces (benchmarks/text.py).
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.text import draw_rows

VOCABULARY = 4096
POOL = 8  # rows drawn for each that is chosen: the tokenizer is learned from all of them
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "sliding_window": 512,
    "tie_word_embeddings": False,
}
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""


def make(place: Path, count: int, max_length: int, shape: dict[str, Any]) -> None:
    """Model, tokenizer, and the rows as we and as TRL read them; what they are in facts.json."""
    import torch
    from transformers import Olmo3Config, Olmo3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    rows = draw_rows(POOL * count)
    tokenizer = _tokenizer([message["content"] for row in rows for message in row])
    short = [row for row in rows if _tokens(tokenizer, row) <= max_length]
    chosen = [short[i * len(short) // count] for i in range(count)]
    config = Olmo3Config(
        vocab_size=len(tokenizer),
        **shape,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = Olmo3ForCausalLM(config)
    model.save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    (place / "rows").mkdir()
    _write(place / "ours.jsonl", [{"messages": row} for row in chosen])
    _write(
        place / "rows" / "train.jsonl", [{"prompt": r[:-1], "completion": r[-1:]} for r in chosen]
    )
    lengths = [_tokens(tokenizer, row) for row in chosen]
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": count,
        "tokens": sum(lengths),
        "median": statistics.median(lengths),
        "longest": max(lengths),
    }
    (place / "facts.json").write_text(json.dumps(facts))


def shape_of(layers: int | None = None, hidden: int | None = None) -> dict[str, Any]:
    """`SHAPE`, or one of that many layers and that width, with heads of 64 values."""
    if layers is None or hidden is None:
        return SHAPE
    heads = hidden // 64
    return SHAPE | {
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }


def _tokenizer(texts: list[str]) -> Any:
    """Byte pairs learned from the rows, so that the head's share of the work is a real model's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = TEMPLATE
    return made


def _tokens(tokenizer: Any, row: list[dict[str, str]]) -> int:
    return len(tokenizer.apply_chat_template(row, return_dict=False))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), shape_of(*map(int, sys.argv[4:])))
