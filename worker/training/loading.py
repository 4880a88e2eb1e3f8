"""Loads the tokenizer and the model to train, as the spec and the prepared rows require."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobspec.errors import ModelError, SpecError
from jobspec.spec.schema import JobSpec, ModelSpec
from worker.kernels import compiled_layers, liger, varlen_attention
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
    """The model with its own attention, sdpa if it has it; `choose_kernels` chooses another.

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


@dataclass(frozen=True)
class Kernels:
    """What computes a model's layers.

    Attributes:
        check: how rows are laid out, and with which attention.
        liger: the version of Liger if its kernels are used.
        compiled: whether the layers are compiled.
        not_compiled: why not, although the spec asks for it.
        float8: what multiplies in float8, if anything does.
    """

    check: ModelCheck
    liger: str | None
    compiled: bool = False
    not_compiled: str | None = None
    float8: str | None = None

    def notes(self) -> Iterator[str]:
        """Lines for the log about what the spec's options led to."""
        if self.float8 is not None:
            yield f"multiplies in float8: {self.float8}"
        if self.not_compiled is not None:
            yield f"train.torch_compile is not used: {self.not_compiled}"


def choose_kernels(model: Any, spec: JobSpec, device: torch.device, *, on_gpu: bool) -> Kernels:
    """Check the model and give it the kernels of the spec. All ranks call it.

    Raises:
        ModelError: the model can't be trained on several rows at once.
        SpecError: the spec's attention or sequence parallelism is not possible.
        JobspecError: the spec requires Liger or float8, which can't be used here.
    """
    train = spec.train
    assert train is not None
    agree = _agreement(device)
    wanted = train.use_liger_kernel
    applied = None if train.torch_compile else liger.apply(model, wanted, on_gpu=on_gpu)
    check = row_check.check(model, spec.model.attn_implementation, device=device, agree=agree)
    multiplied, limits = None, None
    if train.precision == "float8":
        from worker.kernels import float8  # imports torchao

        check = replace(check, layout=replace(check.layout, multiple=float8.MULTIPLE))
        line = row_check.sample_line(model, check.layout, device)
        multiplied, limits = float8.convert(model, line, agree=agree), float8.MODEL_LIMITS
    if train.sequence_parallel > 1:
        _share_rows(model, check, train.sequence_parallel)
    if not train.torch_compile:
        return Kernels(check, applied, float8=multiplied)
    line = row_check.sample_line(model, check.layout, device)
    reason = compiled_layers.compile_layers(model, line, agree=agree, limits=limits)
    if reason is not None:
        applied = liger.apply(model, wanted, on_gpu=on_gpu)
    return Kernels(check, applied, reason is None, reason, multiplied)


def _share_rows(model: Any, check: ModelCheck, degree: int) -> None:
    """Let `degree` ranks share each row. All ranks call it.

    Raises:
        SpecError: the model's layers do not allow it.
    """
    if check.layout.padded or check.layout.seq_idx:
        raise SpecError(
            f"`{model.config.model_type}` can't share rows among devices: {check.layout.reason}",
            place="$.train.sequence_parallel",
            hint="set it to 1",
        )
    varlen_attention.enable_sequence_parallel(model.config, degree)


def _agreement(device: torch.device) -> Callable[[bool], bool]:
    """Whether a condition holds on all ranks, which all call it together."""

    def agree(holds: bool) -> bool:
        agreed = torch.tensor(int(holds), device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MIN)
        return bool(agreed)

    return agree


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
