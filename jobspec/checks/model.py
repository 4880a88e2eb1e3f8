"""Checks the model of a spec against the files that are here, without loading it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from jobspec.benchmarks import registry
from jobspec.errors import ModelError, SpecError
from jobspec.models import config
from jobspec.models.config import ModelConfig, has_experts
from jobspec.models.directory import is_path, locate
from jobspec.models.weights import TOKEN_EMBEDDINGS, refuse_pickles, tensor_shapes
from jobspec.spec.benchmark_settings import sampling
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths

_PROMPT_TOKENS = 64  # no benchmark's prompt is shorter than this
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_HEADS = {"lm_head", "embed_out", "output_layer"}
_EMBEDDINGS = TOKEN_EMBEDDINGS | {"wpe"}
# Every kind of tokenizer has one of these files.
_TOKENIZERS = ("tokenizer.*", "vocab.*", "*.model", "*.tiktoken", "tekken.json")


def check_model(spec: JobSpec, root: Path, file: Path) -> Iterator[str]:
    """Check the model's files and what the spec asks of it; yield warnings.

    Raises:
        ModelError: it is no model directory, or its weights are pickles.
        SpecError: the spec asks for what the model can't do.
    """
    name = spec.model.name
    if spec.model.trust_remote_code:
        pin = "" if spec.model.revision or is_path(name) else "; `model.revision` would pin it"
        yield f"model `{name}` brings code of its own, which will run on every worker{pin}"
    _check_hub_name(name, file)
    directory = locate(spec.model, RootPaths(root))
    if directory is None:
        yield f"model `{name}` is not in the root's cache: `jobspec fetch SPEC…` downloads it"
        return
    model = _read_config(directory, file)
    _check_heads(spec, model, file)
    _check_experts(spec, model, file)
    _check_tokenizer(directory, file)
    refuse_pickles(directory, file=file)
    _check_adapters(spec, tensor_shapes(directory, file=file), file)
    if model.context_length is None:
        yield f"{directory / config.CONFIG}: does not state a context length, so it was not checked"
        return
    _check_context(spec, model.context_length, directory, file)


def _check_hub_name(name: str, file: Path) -> None:
    if is_path(name) or _HUB_NAME.fullmatch(name):
        return
    raise ModelError(
        f"`{name[:80]}` is neither a directory nor a name on the hub",
        file=file,
        place="$.model.name",
        hint="hub names are `owner/model`; relative paths are taken from where you call jobspec",
    )


def _read_config(directory: Path, file: Path) -> ModelConfig:
    try:
        return config.read(directory)
    except ModelError as error:
        raise ModelError(
            f"`{directory}` is no model directory: {error.message}",
            file=file,
            place="$.model.name",
            hint="give a directory with config.json, weights and tokenizer, or a hub name",
        ) from error


def _check_heads(spec: JobSpec, model: ModelConfig, file: Path) -> None:
    """Sequence parallelism divides a layer's heads among devices: they must divide evenly."""
    degree = spec.train.sequence_parallel if spec.train is not None else 1
    heads, kv_heads = model.heads, model.kv_heads
    if heads is None or kv_heads is None:
        return
    if heads % degree or (kv_heads % degree and degree % kv_heads):
        raise SpecError(
            f"`{degree}` devices can't evenly share {heads} query heads and {kv_heads} key heads",
            file=file,
            place="$.train.sequence_parallel",
            hint=f"use a divisor of {heads} that is a divisor or a multiple of {kv_heads}",
        )


def _check_experts(spec: JobSpec, model: ModelConfig, file: Path) -> None:
    if spec.train is None or spec.train.precision is None or not has_experts(model.outer):
        return
    raise SpecError(
        f"`{spec.train.precision}` can't train a mixture of experts, which get few tokens each",
        file=file,
        place="$.train.precision",
        hint="leave precision out to train in bfloat16",
    )


def _check_context(spec: JobSpec, context: int, directory: Path, file: Path) -> None:
    for place, needed, what in _needs(spec):
        if needed > context:
            raise SpecError(
                f"`{what}` does not fit the model's context of {context} tokens",
                file=file,
                place=place,
                hint=f"{directory / config.CONFIG} states the context length: ask for less",
            )


def _check_tokenizer(directory: Path, file: Path) -> None:
    if not any(path for pattern in _TOKENIZERS for path in directory.glob(pattern)):
        raise ModelError(
            f"`{directory}` has no tokenizer",
            file=file,
            place="$.model.name",
            hint="copy the tokenizer files of the model it was tuned from beside the weights",
        )


def _check_adapters(spec: JobSpec, shapes: dict[str, tuple[int, ...]], file: Path) -> None:
    """Each LoRA target must name a linear layer, and not the output head.

    The loss is computed from the head's weights without calling the head, so an adapter on it would
    have no effect.
    """
    lora = spec.train.lora if spec.train is not None else None
    if lora is None or lora.target_modules == "all-linear" or not shapes:
        return
    layers = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2}
    names = {layer.rpartition(".")[2] for layer in layers} - _HEADS - _EMBEDDINGS
    for target in lora.target_modules:
        head = target.rpartition(".")[2] in _HEADS
        if head or not any(layer == target or layer.endswith(f".{target}") for layer in layers):
            why = (
                "cannot be adapted, because training does not call it" if head else "does not exist"
            )
            raise SpecError(
                f"the model's module `{target}` {why}",
                file=file,
                place="$.train.lora.target_modules",
                hint=f'"all-linear", or some of: {", ".join(sorted(names))}',
            )


def _needs(spec: JobSpec) -> Iterator[tuple[str, int, str]]:
    """(place, tokens needed, what) of everything that must fit the context."""
    if spec.train is not None:
        yield "$.train.max_length", spec.train.max_length, f"max_length {spec.train.max_length}"
    if spec.eval is not None:
        for name in filter(registry.get, spec.eval.benchmarks):  # lm-eval's have their own budget
            tokens = sampling(spec.eval, name)["max_gen_toks"]
            what = f"max_gen_toks {tokens} (of {name}) and a prompt"
            yield "$.eval.max_gen_toks", tokens + _PROMPT_TOKENS, what
