"""Which layout of rows each causal family of Transformers is trained with: a table in Markdown.

    python -m benchmarks.families [--why] [FAMILY …]

Builds a tiny model with random weights of every family that `AutoModelForCausalLM` knows, and runs
the check of `worker.packing.row_check` on it, on the CPU. docs/training.md has a copy of the table.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from jobspec.errors import ModelError
from worker.packing import row_check

FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))

VOCABULARY = 128
# Sizes by the names that configurations give them.
_HALF = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups")
_SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim_model", "emb_dim"), 32),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "embedding_dim", "lru_width"), 32),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("attention_heads", "swa_num_attention_heads", "index_n_heads"), 4),
    **dict.fromkeys(_HALF, 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size"), 64),
    **dict.fromkeys(("ffn_hidden_size", "expert_ffn_hidden_size", "dim_ff", "dff"), 64),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "d_inner", "feed_forward_size"), 64),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 64),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size"), 64),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "attention_hidden_size"), 32),
    **dict.fromkeys(("head_dim", "dim_head", "d_head", "swa_head_dim", "kv_channels"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("attention_head_size", "attention_head_dim"), 8),
    **dict.fromkeys(("qk_head_dim", "index_head_dim", "mamba_d_head", "mamba_headdim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "adapter_rank"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("moe_num_experts", "zero_expert_num", "o_groups"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank", "router_hidden_size"), 8),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank", "rotary_dim"), 4),
    "mamba_head_dim": 16,
    "mamba_d_ssm": 64,
    "max_position_embeddings": 512,
    "num_kv_shared_layers": 0,
    "ngram_vocab_size_base": 64,
    "hc_lowrank": 8,
    "ple_embed_dim": 32,
    "num_centroids": 16,
    "centroid_intermediate_top_k": 4,
    "audio_vocab_size": 32,
}
_MOST_WEIGHTS = 20_000_000
_LAYERS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers"),
    *("encoder_layers", "num_decoder_layers", "num_encoder_layers", "num_blocks"),
)
_TYPES = ("layer_types", "layers_block_type", "block_types", "mlp_layer_types", "attn_layers")
# What the sizes above do not give: a layer of each kind among two, sizes that must fit together.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "ministral": {"head_dim": 8},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}


# What a family gets, as the table's rows say it.
PACKED = "packed"
SEQ_IDX = "packed, with the family's own `seq_idx`"
LEAKING = "padded, because packed rows would affect each other"
OTHER_ATTENTION = "padded, because the attention for packed rows can't replace the family's own"
REFUSED = "refused: padded rows affect each other or differ from rows alone"
NOT_BUILT = "not tried: no tiny model could be built"
ORDER = (PACKED, SEQ_IDX, LEAKING, OTHER_ATTENTION, REFUSED, NOT_BUILT)


@dataclass(frozen=True)
class Result:
    """What a family gets, one of `ORDER`, and why."""

    family: str
    gets: str
    why: str = ""


def tiny_model(
    family: str, dtype: torch.dtype = torch.float32, vocabulary: int = VOCABULARY
) -> Any:
    """A tiny model with random weights."""
    sizes = _tiny(AutoConfig.for_model(family), vocabulary)
    for name, value in _OVERRIDES.get(family, {}).items():
        sizes[name] = sizes[name] | value if isinstance(value, dict) else value
    config = AutoConfig.for_model(family, **sizes)
    _use_small_ids(config)
    config.get_text_config(decoder=True).initializer_range = 0.2  # so that attention matters
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _tiny(config: Any, vocabulary: int) -> dict[str, Any]:
    """The arguments that make a configuration tiny, its inner ones too."""
    given = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    types = next((given[name] for name in _TYPES if given.get(name)), ())
    kinds = list(dict.fromkeys(types))
    layers = max(2, len(kinds))
    changed: dict[str, Any] = {}
    for name, value in given.items():
        if hasattr(value, "to_dict"):
            changed[name] = _tiny(value, vocabulary)
        elif name in _LAYERS and isinstance(value, int):
            changed[name] = layers
        elif name.startswith("vocab_size") and isinstance(value, int):
            changed[name] = vocabulary
        elif name in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            changed[name] = _SIZES[name]
        elif name in _TYPES and value:
            changed[name] = (list(dict.fromkeys(value)) * layers)[:layers]
        elif isinstance(value, list) and len(value) > layers and "layer" in name:
            changed[name] = value[:layers]
    if "kv_lora_rank" in given and "num_key_value_heads" in given:
        changed["num_key_value_heads"] = 4  # its latent attention has no groups
    return changed


def _use_small_ids(config: Any) -> None:
    """Move special tokens into the vocabulary."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            _use_small_ids(value)
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int | list):
            setattr(config, name, 0 if name == "pad_token_id" else 1)


def examine(family: str, dtype: torch.dtype = torch.float32) -> Result:
    """Build a family's tiny model and check it as a training job does."""
    try:
        model = tiny_model(family, dtype)
        if (weights := sum(weight.numel() for weight in model.parameters())) > _MOST_WEIGHTS:
            return Result(family, NOT_BUILT, f"{weights:,} weights")
    except Exception as error:  # each family's code fails in its own way
        return Result(family, NOT_BUILT, _one_line(error))
    try:
        layout = row_check.check(model, "auto", device=torch.device("cpu"), agree=bool).layout
    except ModelError as error:
        return Result(family, REFUSED, _one_line(error))
    except Exception as error:  # also alone, its rows can't be computed
        return Result(family, NOT_BUILT, _one_line(error))
    why = layout.reason or ""
    if layout.padded:
        return Result(family, LEAKING if "affect each other" in why else OTHER_ATTENTION, why)
    return Result(family, SEQ_IDX if layout.seq_idx else PACKED, why)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def table(results: list[Result]) -> str:
    """The Markdown table of docs/training.md."""
    lines = ["| rows are | families |", "| --- | --- |"]
    for gets in ORDER:
        names = [result.family for result in results if result.gets == gets]
        lines.append(f"| {gets} ({len(names)}) | {', '.join(names) or '–'} |")
    return "\n".join(lines)


def read_table(text: str) -> dict[str, str]:
    """What each family gets, according to a page that contains the table."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        for gets in ORDER:
            if line.startswith(f"| {gets} ("):
                names = line.split("|")[2].strip().split(", ")
                found |= {name: gets for name in names if name != "–"}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("families", nargs="*", help="default: all")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--why", action="store_true", help="a line a family, with the reason")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    results: list[Result] = []
    for family in options.families or FAMILIES:
        result = examine(family, getattr(torch, options.dtype))
        results.append(result)
        if options.why:
            print(f"{family:24} {result.gets.split(',')[0]:8} {result.why[:160]}", flush=True)
    if not options.why:
        print(table(results))


if __name__ == "__main__":
    main()
