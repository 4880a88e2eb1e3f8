"""Small engines of three model families, and their prompts."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from worker.inference.continuous import ContinuousEngine
from worker.inference.hf_engine import HfEngine
from worker.inference.requests import Sampling

SAMPLING = Sampling(max_gen_toks=24, temperature=0.8, top_p=0.9)
END = "<|im_end|>"
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 264,
    "max_position_embeddings": 512,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    # A window shorter than the prompts, on alternating layers.
    "olmo3": lambda: transformers.Olmo3Config(
        **SIZES, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
}


def make_engine(family: str, tokenizer: Any) -> HfEngine:
    torch.manual_seed(0)
    config = CONFIGS[family]()
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = config.bos_token_id = None
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # far from uniform, so that rounding decides nothing
    return HfEngine(model, tokenizer)


def make_continuous(
    engine: HfEngine, in_flight: int = 7, cache_tokens: int = 2048
) -> ContinuousEngine:
    """Continuous batching of the same model."""
    return ContinuousEngine(
        engine.model, engine.responses, in_flight=in_flight, cache_tokens=cache_tokens
    )


def prompts(tokenizer: Any) -> dict[str, tuple[int, ...]]:
    texts = {"a": "one", "b": "a longer question, this", "c": "two words"}
    return {name: tuple(tokenizer(text)["input_ids"]) for name, text in texts.items()}
