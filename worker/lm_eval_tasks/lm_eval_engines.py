"""lm-eval's own model classes on this project's engines, for tasks that are lm-eval's own."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

from jobspec.spec.schema import EvalSpec
from jobspec.version import distribution_of
from worker.inference import children, determinism, gpu_groups
from worker.inference.engine import EngineChoice
from worker.inference.vllm_engine import (
    cache_arguments,
    cpu_arguments,
    fail_when_killed,
    link_arguments,
    shut_down,
)

Report = Callable[[int, int], None]
_HF_BATCH = 8
_AS_LONG_AS_FITS = -1  # vLLM: the model's context, or what the key-value cache has memory for


@contextmanager
def loaded(choice: EngineChoice, evaluation: EvalSpec, report: Report) -> Iterator[Any]:
    """lm-eval's own class for the engine, on the same weights; ended afterwards.

    Args:
        report: receives (requests done, requests in all of the present step of a task).
    """
    weights = choice.weights
    shared: dict[str, Any] = {
        "pretrained": weights.directory,
        "dtype": weights.dtype,
        "trust_remote_code": weights.trust_remote_code,
        "think_end_token": evaluation.think_end_token,
        "chat_template_args": dict(evaluation.chat_template_kwargs),
    }
    start = {"hf": _hf, "vllm": _vllm}[choice.entry.lm_eval_class]
    with start(choice, shared, evaluation.seed, _counting_bar(report)) as model:
        yield model


@contextmanager
def _hf(choice: EngineChoice, shared: dict[str, Any], seed: int, bar: Any) -> Iterator[Any]:
    from lm_eval.models import huggingface

    if choice.weights.deterministic:
        determinism.make_torch_deterministic()
    device = "cuda" if choice.devices else "cpu"
    shared |= {"device": device, "max_length": choice.context, "batch_size": _HF_BATCH}
    with mock.patch.object(huggingface, "tqdm", bar):
        yield huggingface.HFLM(**shared)


@contextmanager
def _vllm(choice: EngineChoice, shared: dict[str, Any], seed: int, bar: Any) -> Iterator[Any]:
    if choice.weights.deterministic:
        determinism.make_vllm_deterministic()
    vllm_causallms = lm_evals_vllm()
    children.die_with_this_process()
    os.environ.update(gpu_groups.all_links())
    # lm-eval insists on a think_end_token where thinking is on; our specs need none for it.
    thinking = shared["chat_template_args"].pop("enable_thinking", None)
    with mock.patch.object(vllm_causallms, "tqdm", bar):
        model = vllm_causallms.VLLM(
            **shared,
            max_model_len=_AS_LONG_AS_FITS,
            tensor_parallel_size=gpu_groups.tensor_parallel_size(
                Path(choice.weights.directory), choice.devices
            ),
            seed=seed,
            **cache_arguments(choice.weights),
            **link_arguments(),
            **({} if choice.devices else cpu_arguments(choice.context)),
        )
        fail_when_killed(model.model)
        try:
            model._max_length = None  # it then asks vLLM for the length that was chosen
            model.enable_thinking = thinking
            generate = model.model.generate
            model.model.generate = lambda *args, **kw: generate(*args, **{**kw, "use_tqdm": bar})
            yield model
        finally:
            shut_down(model.model)


def lm_evals_vllm() -> Any:
    """lm-eval's module for vLLM.

    It asks for the version of a distribution `vllm` when it is imported and later, which a CPU or
    ROCm build does not have. vLLM finds out by its distribution's name whether it was built for
    CPUs, so it must have done that before another name answers.
    """
    version, installed = metadata.version, distribution_of("vllm") or "vllm"
    importlib.import_module("vllm.platforms").current_platform  # noqa: B018 - found on first access

    def version_of(name: str) -> str:
        return version(installed if name == "vllm" else name)

    with mock.patch.object(metadata, "version", version_of):
        return importlib.import_module("lm_eval.models.vllm_causallms")


def _counting_bar(report: Report) -> Any:
    """A progress bar that shows nothing and reports: a long task must not look like a hung one."""
    from tqdm import tqdm

    class CountingBar(tqdm):  # pyright: ignore[reportMissingTypeArgument] - generic in stubs only
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": False, "file": _Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.total:
                report(int(self.n), int(self.total))
            return shown

    return CountingBar


class _Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)
