"""Loads the tokenizer and the model to train, as the spec and the prepared rows require."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobspec.errors import ModelError, SpecError
from jobspec.spec.schema import JobSpec, ModelSpec
from worker.kernels import varlen_attention
from worker.packing import row_check
from worker.packing.row_check import ModelCheck


def load_tokenizer(model: ModelSpec, chat_template: str) -> Any:
    """The model's tokenizer, to be saved with the trained weights.

    Args:
        chat_template: the template that the rows were rendered with.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model.name, revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    tokenizer.chat_template = chat_template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(spec: JobSpec, eos_token_ids: tuple[int, ...]) -> Any:
    """The model with its own attention, sdpa if it has it; `check_model` chooses another.

    Args:
        eos_token_ids: the tokens that end a turn in the training rows. The saved model must stop
            generating at them.

    Raises:
        ModelError: it can't be loaded.
    """
    model, asked = spec.model, spec.model.attn_implementation
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            model.name,
            revision=model.revision,
            dtype=getattr(torch, model.dtype),
            attn_implementation=asked if asked in ("sdpa", "eager") else None,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
        )
        loaded.generation_config.eos_token_id = list(eos_token_ids)
        _allow_sampling(loaded.generation_config)
        return loaded
    except OSError as error:
        raise ModelError(
            f"`{model.name}` can't be loaded: {str(error).splitlines()[0]}",
            hint="safetensors are needed; `jobspec fetch` downloads them, on a node with network",
        ) from error


def check_model(model: Any, spec: JobSpec, device: torch.device) -> ModelCheck:
    """Choose the layout of rows and set the attention, the same on all ranks. All ranks call it.

    Raises:
        ModelError: the model can't be trained on several rows at once.
        SpecError: the spec's attention or sequence parallelism is not possible.
    """
    train = spec.train
    assert train is not None

    def agree(holds: bool) -> bool:
        agreed = torch.tensor(int(holds), device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MIN)
        return bool(agreed)

    found = row_check.check(model, spec.model.attn_implementation, device=device, agree=agree)
    if train.sequence_parallel > 1:
        if found.layout.padded or found.layout.seq_idx:
            raise SpecError(
                f"`{model.config.model_type}` can't share rows among devices: "
                f"{found.layout.reason}",
                place="$.train.sequence_parallel",
                hint="set it to 1",
            )
        varlen_attention.enable_sequence_parallel(model.config, train.sequence_parallel)
    return found


def _allow_sampling(config: Any) -> None:
    """Set `do_sample` if the model's generation_config.json has sampling settings without it.

    Many published models have a temperature there and no `do_sample`. Transformers loads such a
    file, but refuses to save it.
    """
    if _is_valid(config):
        return
    given, config.do_sample = config.do_sample, True
    if not _is_valid(config):
        config.do_sample = given  # something else is wrong: saving will say what


def _is_valid(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
