"""The engine for GPUs: vLLM. Samples are added one by one, so that a slow one delays no other.

Uses the interface of vLLM 0.32: `LLM(...).llm_engine` with `add_request` and `step`. Our own
tokenizer decodes the token ids, as in the hf engine, so that both engines give the same text.

vLLM runs its scheduler and model in further processes (`VLLM::EngineCore`, `VLLM::Worker`), which
hold the GPU's memory: `close` ends them, and a process that loads vLLM first calls
`worker.inference.children.die_with_this_process`, so that none outlives a killed parent.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from jobspec.models import config
from jobspec.records.evaluation import Generation
from worker.inference import determinism
from worker.inference.decode import Responses
from worker.inference.engine import Weights
from worker.inference.in_flight import ChunksInFlight
from worker.inference.requests import ResponseRules, SampleChunk, SampleRequest, Sampling

IN_FLIGHT = 256  # samples an engine holds at a time; more would only wait in vLLM's queue
_CPU_BATCHED_TOKENS = 2048
_ENDS_BY_ITSELF_S = 5.0
_REPORTS_WITHIN_S = 2.0
_CLOSING = "_jobspec_closing"  # an attribute of a `vllm.LLM` whose processes are ended on purpose


class VllmEngine:
    """One vLLM engine on the devices this process sees.

    Args:
        llm: a `vllm.LLM`, or any object with its `llm_engine`.
        module: the vllm package, for its `SamplingParams` and `TokensPrompt`.
        in_flight: samples held at a time; chunks are pulled while there is room.
    """

    method = "continuous batching"

    def __init__(
        self, llm: Any, module: Any, responses: Responses, *, in_flight: int = IN_FLIGHT
    ) -> None:
        self._llm: Any = llm
        self._module = module
        self._responses = responses
        self._in_flight = in_flight

    @classmethod
    def load(
        cls,
        weights: Weights,
        tokenizer: Any,
        *,
        context: int,
        in_flight: int = IN_FLIGHT,
    ) -> VllmEngine:
        """Start vLLM for sequences of `context` tokens at most."""
        import torch

        if weights.deterministic:
            determinism.make_vllm_deterministic()
        import vllm  # pyright: ignore[reportMissingImports] - the extra `vllm`

        gpus = torch.cuda.device_count()
        llm = vllm.LLM(
            model=weights.directory,
            dtype=weights.dtype,
            trust_remote_code=weights.trust_remote_code,
            max_model_len=context,
            # The process sees the devices of one engine only.
            tensor_parallel_size=max(1, gpus),
            # generation_config must not change sampling in ways that the spec does not ask for.
            generation_config="vllm",
            disable_log_stats=True,
            **cache_arguments(weights),
            **link_arguments(),
            **({} if gpus else cpu_arguments(context)),
        )
        fail_when_killed(llm)
        # Many models have no generation_config.json; then config.json has their end tokens.
        end_tokens = config.end_tokens(Path(weights.directory))
        return cls(llm, vllm, Responses(tokenizer, end_tokens), in_flight=in_flight)

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        """Hold `in_flight` samples at a time; yield a chunk when its last sample has ended."""
        engine = self._llm.llm_engine
        held = ChunksInFlight(chunks, self._in_flight)
        watched: dict[str, _WatchedSample] = {}
        while True:
            for name, request, chunk in held.admit():
                prompt = self._module.TokensPrompt(prompt_token_ids=list(request.prompt))
                sample = _WatchedSample(self._responses.stop_watch(chunk.rules))
                fields = self._fields(request, chunk.sampling, stream=sample.is_watched)
                params = self._module.SamplingParams(**fields)
                watched[name] = sample
                engine.add_request(name, prompt, params)
            if not held.samples:
                return
            for output in engine.step():
                name = output.request_id
                sample = watched.get(name)
                if sample is None or not output.outputs:  # it was aborted, or has nothing new
                    continue
                (completion,) = output.outputs
                reached = sample.add(completion.token_ids)
                if reached and not output.finished:
                    engine.abort_request([name])
                if reached or output.finished:
                    del watched[name]
                    ended = completion.finish_reason == "stop"
                    row = self._generation(*held.request(name), sample.tokens, ended=ended)
                    yield from held.finish(name, row)

    def close(self) -> None:
        """End the engine's processes, which hold the memory; safe to call again."""
        llm, self._llm = self._llm, None
        if llm is not None:
            shut_down(llm)

    def _generation(
        self, request: SampleRequest, rules: ResponseRules, tokens: list[int], *, ended: bool
    ) -> Generation:
        return self._responses.generation(request, tokens, rules=rules, stopped=ended)

    def _fields(
        self, request: SampleRequest, sampling: Sampling, *, stream: bool = False
    ) -> dict[str, Any]:
        """Every sampling field, so that vLLM uses no default of its own.

        Args:
            stream: hand over new tokens at every step instead of all of them at the end.
        """
        kinds = self._module.sampling_params.RequestOutputKind
        return {
            "n": 1,
            "seed": request.seed,
            "max_tokens": sampling.max_gen_toks,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or 0,
            "min_p": sampling.min_p or 0.0,
            "presence_penalty": sampling.presence_penalty or 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop": None,
            "stop_token_ids": sorted(self._responses.eos),
            "detokenize": False,
            # By default every step would hand over all tokens so far of every sample. vLLM's own
            # stop strings would end a think block, so new tokens are watched instead.
            "output_kind": kinds.DELTA if stream else kinds.FINAL_ONLY,
        }


class _WatchedSample:
    """The tokens of a sample so far, and whether they have reached a stop string."""

    def __init__(self, watch: Callable[[Sequence[int]], bool] | None) -> None:
        self._watch = watch
        self.tokens: list[int] = []

    @property
    def is_watched(self) -> bool:
        return self._watch is not None

    def add(self, tokens: Sequence[int]) -> bool:
        """Add new tokens up to a stop string; whether it was reached.

        Without stop strings vLLM hands over all tokens at the end.
        """
        if self._watch is None:
            self.tokens += tokens
            return False
        for token in tokens:
            self.tokens.append(token)
            if self._watch(self.tokens):
                return True
        return False


def fail_when_killed(llm: Any) -> None:
    """Let a waiting `step` of a `vllm.LLM` fail once its engine core was killed.

    The core reports its own errors. When the kernel kills it, vLLM 0.32 closes its sockets, but the
    thread that waits for outputs is not woken up and would wait for ever.
    """
    processes = _core_processes(llm)
    if not processes:
        return
    dead = importlib.import_module("vllm.v1.engine.exceptions").EngineDeadError
    outputs = llm.llm_engine.engine_core.outputs_queue

    def report() -> None:
        wait([process.sentinel for process in processes])
        if not getattr(llm, _CLOSING, False):
            _log_signals(processes)
            outputs.put_nowait(dead())

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    for name in ("step", "add_request"):
        setattr(llm.llm_engine, name, _after_report(llm.llm_engine, name, dead, reporter))


def _after_report(
    engine: Any, name: str, dead: type[Exception], reporter: threading.Thread
) -> Callable[..., Any]:
    """A method whose error for a dead core waits for the line that says what killed the core.

    RACE: vLLM may notice the death first, and this process is killed once it has reported an error.
    """
    method = getattr(type(engine), name)
    owner = weakref.ref(engine)  # a cycle would keep the engine after its last use

    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(owner(), *args, **kwargs)
        except dead:
            reporter.join(_REPORTS_WITHIN_S)
            raise

    return called


def _log_signals(processes: list[Any]) -> None:
    """Log what killed the core, as vLLM logs errors: worker.inference.pool looks for that.

    RACE: while another thread collects the exit code, it is None for a moment.
    """
    for _ in range(20):
        codes = [process.exitcode for process in processes]
        for code in codes:
            if code is not None and code < 0:
                name = signal.Signals(-code).name
                why = "; the kernel does that when memory runs out" if name == "SIGKILL" else ""
                message = f"ERROR [vllm] EngineDeadError: {name} ended vLLM's engine core{why}"
                sys.stderr.write(f"{message}\n")
                sys.stderr.flush()
                return
        time.sleep(0.05)


def shut_down(llm: Any) -> None:
    """End the processes of a `vllm.LLM`: dropping the object leaves them, and their memory.

    vLLM itself waits for its engine core only, whose own children may live on for a while.
    """
    import psutil

    setattr(llm, _CLOSING, True)
    processes: list[psutil.Process] = []
    for each in _core_processes(llm):
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(each.pid)
            processes += [first, *first.children(recursive=True)]
    llm.llm_engine.engine_core.shutdown()
    _, living = psutil.wait_procs(processes, timeout=_ENDS_BY_ITSELF_S)
    for process in living:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(living, timeout=_ENDS_BY_ITSELF_S)


def _core_processes(llm: Any) -> list[Any]:
    """The `multiprocessing` processes that run the engine core."""
    core = getattr(llm.llm_engine, "engine_core", None)
    manager = getattr(getattr(core, "resources", None), "engine_manager", None)
    return list(getattr(manager, "processes", ()))


def cache_arguments(weights: Weights) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for the key-value cache."""
    return {
        "kv_cache_dtype": weights.kv_cache_dtype,
        "enable_prefix_caching": weights.enable_prefix_caching,
    }


def link_arguments() -> dict[str, Any]:
    """Arguments of `vllm.LLM` for the links between this engine's GPUs.

    vLLM's own all-reduce uses peer access too: see worker.inference.gpu_groups.
    """
    return {"disable_custom_all_reduce": os.environ.get("NCCL_P2P_DISABLE") == "1"}


def cpu_arguments(context: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM` on a CPU.

    A prompt has to be computed in one piece there. When it is split, seeded sampling ends the
    engine with `CPU Generator does not use offset` (vLLM 0.32).
    """
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(context, _CPU_BATCHED_TOKENS),
    }
