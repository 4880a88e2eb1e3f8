"""The interface of the engines that generate samples, and the choice of one for a spec."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from jobspec.errors import ModelError
from jobspec.models import config
from jobspec.records.base import UNSET
from jobspec.records.evaluation import Generation
from jobspec.records.reports import ScoringProtocol
from jobspec.spec.schema import ModelSpec
from jobspec.version import installed_version
from worker.host import vllm_package
from worker.inference.requests import SampleChunk, Sampling

_log = logging.getLogger(__name__)
_HF_MOST_ROWS = 64  # larger batches are no faster on a CPU, and a kill would lose more
_HF_CACHE_BYTES = 4 * 1024**3
_FLOAT32_BYTES = 4
_VLLM_ROWS = 8  # the unit of storage only: many chunks are in progress at a time


class EngineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One engine.

    Attributes:
        name: as in `eval.backend`.
        title: its name in messages.
        module: a module of this package, and in it the class with a `load` like `HfEngine.load`.
        package: what has to be installed; `install` is the command that does it.
        versions: the packages whose versions are recorded beside each score.
        chunk_rows: samples in a chunk; None: as many as the model's cache has memory for.
        lm_eval_class: which of lm-eval's own classes scores lm-eval's own tasks.
        in_process_on_cpu: on a CPU that is one group it runs in the process that asks it.
        cache_options: whether it has the options of the key-value cache that a spec can set.
    """

    name: str
    title: str
    module: str
    package: str
    install: str
    versions: tuple[str, ...]
    chunk_rows: int | None = None
    lm_eval_class: Literal["hf", "vllm"] = "hf"
    in_process_on_cpu: bool = False
    cache_options: bool = False


HF = EngineEntry(
    name="hf",
    title="Transformers",
    module="hf_engine.HfEngine",
    package="transformers",
    install="pip install 'jobspec[worker]'",
    versions=("transformers", "torch"),
    in_process_on_cpu=True,
)
VLLM = EngineEntry(
    name="vllm",
    title="vLLM",
    module="vllm_engine.VllmEngine",
    package="vllm",
    install="pip install 'jobspec[vllm]'",
    versions=("vllm", "torch"),
    chunk_rows=_VLLM_ROWS,
    lm_eval_class="vllm",
    cache_options=True,
)
ENGINES = {entry.name: entry for entry in (HF, VLLM)}


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The model to score: its directory, and how it is loaded.

    Attributes:
        kv_cache_dtype: as in `eval`, for engines with `cache_options`; enable_prefix_caching too.
        deterministic: as in `eval`: a sample does not depend on what else the engine generates.
    """

    directory: str
    dtype: str = "bfloat16"
    attn_implementation: str = "auto"
    trust_remote_code: bool = False
    kv_cache_dtype: str = "auto"
    enable_prefix_caching: bool = True
    deterministic: bool = False

    def shaping_fields(self) -> dict[str, Any]:
        """What of it shapes a sample, besides the weights themselves.

        A field that was added later is left out at its default, so that samples of an earlier
        attempt are found again after an update.
        """
        fields = msgspec.structs.asdict(self) | {"directory": ""}
        del fields["enable_prefix_caching"]
        for name, default in (("kv_cache_dtype", "auto"), ("deterministic", False)):
            if fields[name] == default:
                del fields[name]
        return fields


class Engine(Protocol):
    """Generates samples. A sample depends on its own seed and on no other sample.

    Attributes:
        method: how it generates, in words for a report.
    """

    method: str

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        """Take chunks as capacity allows; yield each with its samples, in the order asked for."""
        ...

    def close(self) -> None:
        """Free the memory and end the processes."""
        ...


class EngineChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine runs on which devices. It is known before anything heavy is loaded."""

    name: str
    weights: Weights
    context: int
    devices: int = 0

    @property
    def entry(self) -> EngineEntry:
        """The engine's line in the table of engines."""
        return ENGINES[self.name]

    def add_facts(self, protocol: ScoringProtocol) -> ScoringProtocol:
        """The protocol with the engine, its versions and options that differ, and its device."""
        weights = self.weights
        return msgspec.structs.replace(
            protocol,
            engine=self.name,
            engine_versions={
                package: installed_version(package) for package in self.entry.versions
            },
            kv_cache_dtype=UNSET if weights.kv_cache_dtype == "auto" else weights.kv_cache_dtype,
            enable_prefix_caching=UNSET if weights.enable_prefix_caching else False,
            deterministic=weights.deterministic or UNSET,
            dtype=weights.dtype,
            device="cuda" if self.devices else "cpu",
        )

    def rows(self, sampling: Sampling, longest_prompt: int) -> int:
        """Samples in a chunk; depends on the model and the settings, not on the machine."""
        if self.entry.chunk_rows is not None:
            return self.entry.chunk_rows
        elements = config.read(Path(self.weights.directory)).cache_elements
        row_bytes = _FLOAT32_BYTES * elements * (longest_prompt + sampling.max_gen_toks)
        return max(1, min(_HF_MOST_ROWS, _HF_CACHE_BYTES // max(1, row_bytes)))

    def load(self, tokenizer: Any = None, *, in_flight: int = 256) -> Engine:
        """Load the weights into this process, on the devices it sees.

        Args:
            tokenizer: the model's, if it is loaded already.
            in_flight: how many samples to hold at a time, if the engine can hold many.
        """
        if tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(
                self.weights.directory, trust_remote_code=self.weights.trust_remote_code
            )
        module, kind = self.entry.module.split(".")
        engine = getattr(importlib.import_module(f"worker.inference.{module}"), kind)
        return engine.load(self.weights, tokenizer, context=self.context, in_flight=in_flight)


def resolve_backend(backend: str, gpus: int, *, deterministic: bool = False) -> tuple[str, str]:
    """The engine that runs for `eval.backend` on this number of GPUs, and the reason.

    Raises:
        ModelError: an engine was asked for by name and is not installed, or is not deterministic.
    """
    if backend != "auto":
        entry = ENGINES[backend]
        if not _is_installed(entry):
            raise ModelError(
                f"{entry.title} is not installed here",
                place="$.eval.backend",
                hint=f"{entry.install}, or set the backend to `auto`",
            )
        if deterministic and entry is VLLM:
            vllm_package.require_batch_invariance()
        return backend, "the spec names it"
    if not gpus:
        return HF.name, "there is no GPU"
    if not _is_installed(VLLM):
        return HF.name, f"{VLLM.title} is not installed"
    lacking = vllm_package.not_batch_invariant() if deterministic else None
    if lacking is not None:
        return HF.name, lacking
    return VLLM.name, f"{VLLM.title} is installed"


def _is_installed(entry: EngineEntry) -> bool:
    return importlib.util.find_spec(entry.package) is not None


def choose(
    backend: str,
    model: ModelSpec,
    directory: Path,
    *,
    gpus: int,
    kv_cache_dtype: str = "auto",
    enable_prefix_caching: bool = True,
    deterministic: bool = False,
) -> EngineChoice:
    """The engine for `eval.backend` and the devices at hand. It is logged where `auto` chose it.

    Raises:
        ModelError: vLLM was asked for and is not installed, the engine does not have the key-value
            cache or the determinism that was asked for, or the model's context is not stated.
    """
    name, reason = resolve_backend(backend, gpus, deterministic=deterministic)
    if kv_cache_dtype != "auto" and not ENGINES[name].cache_options:
        raise ModelError(
            f"{ENGINES[name].title} has no key-value cache in `{kv_cache_dtype}`; it would score "
            f"because {reason}",
            place="$.eval.kv_cache_dtype",
            hint='set it to "auto", or run the job where vLLM can run',
        )
    if gpus and name == HF.name and backend == "auto":
        _log.warning(
            "samples are drawn by Transformers on the GPU because %s; vLLM is faster: %s",
            reason,
            VLLM.install,
        )
    context = config.read(directory).context_length
    if context is None:
        raise ModelError(
            "config.json does not say how long a sequence may be",
            file=directory,
            hint="add max_position_embeddings to it",
        )
    # Without bfloat16 arithmetic a CPU is several times faster in float32, and no less exact.
    dtype = model.dtype if gpus else "float32"
    weights = Weights(
        directory=str(directory),
        dtype=dtype,
        attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
        kv_cache_dtype=kv_cache_dtype,
        enable_prefix_caching=enable_prefix_caching,
        deterministic=deterministic,
    )
    return EngineChoice(name=name, weights=weights, context=context, devices=gpus)
