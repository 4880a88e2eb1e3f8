"""Creates a tiny Olmo-3 model, training rows and a benchmark for the demo.

    python -m worker.demo.tiny_model DIR

The model has random weights, a byte-level tokenizer and a chat template that opens `<think>` like
Olmo-3-Think's. The rows teach the positions of letters in the alphabet, with reasoning. The
benchmark has the form of AIME and asks the same questions. So its score shows whether the pipeline
works, but nothing about generalization.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import msgspec

from jobspec.benchmarks import benchmark
from worker.imports.quiet import hush_torchao
from worker.program import run_program

TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}
{%- if message['role'] == 'assistant' and loop.last -%}
{{ eos_token }}
{%- else -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
<think>
{%- endif -%}
"""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BENCHMARK = "aime_demo"


def make(directory: Path) -> None:
    """Write `model/`, `train.jsonl` and `benchmarks/aime_demo.jsonl` below `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed prints about it
    make_model(directory / "model")
    make_rows(directory)


def make_model(path: Path, *, hidden: int = 64, layers: int = 2, seed: int = 0) -> None:
    """Write a randomly initialized Olmo-3 with a tokenizer of 256 bytes and 4 special tokens."""
    hush_torchao()
    import torch
    from transformers import Olmo3Config, Olmo3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = Olmo3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        sliding_window=256,
        tie_word_embeddings=False,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    Olmo3ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)


def make_tokenizer() -> Any:
    """A byte-level tokenizer without merges: one token per byte, so every text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=SPECIAL[0], pad_token=SPECIAL[3]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:3])})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_rows(directory: Path, *, repeats: int = 6, seed: int = 0) -> None:
    """Write rows about the positions of letters, with reasoning, and a benchmark that asks them."""
    rows = [_row(letter) for letter in LETTERS for _ in range(repeats)]
    random.Random(seed).shuffle(rows)
    _write(directory / "train.jsonl", rows)
    asked = [
        {"id": letter, "problem": _question(letter), "answer": str(_position(letter))}
        for letter in LETTERS
    ]
    (directory / "benchmarks").mkdir(exist_ok=True)
    _write(directory / "benchmarks" / f"{BENCHMARK}.jsonl", asked)


def _question(letter: str) -> str:
    # Repeating the letter makes it easy to learn, so minutes of training suffice.
    return f"Which place in the alphabet has the letter {letter * 6}?"


def _position(letter: str) -> int:
    return LETTERS.index(letter) + 1


def _row(letter: str) -> dict[str, Any]:
    position = _position(letter)
    answer = f"<think>{letter} is number {position}.</think>\n\n\\boxed{{{position}}}"
    return {
        "messages": [
            {"role": "user", "content": benchmark.PROMPT.format(problem=_question(letter))},
            {"role": "assistant", "content": answer},
        ]
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


if __name__ == "__main__":
    run_program(lambda: make(Path(sys.argv[1])))
