"""What workers can do on this machine: its GPUs, packages and engine, without importing torch.

    python -m worker.host.machine

prints the answer as JSON, for `jobspec doctor`, and for `validate` and `enqueue` on a machine with
GPUs.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator

from jobspec.records import base as records
from jobspec.records.answers import MachineAnswer, MachineFact
from jobspec.version import installed_version
from worker.host import gpus, memory, preflight, versions, vllm_package
from worker.host.gpus import Gpu
from worker.host.preflight import Finding
from worker.program import run_program

_INSTALL_WORKER = "pip install 'jobspec[worker]'"
_INSTALL_KERNELS = "pip install 'jobspec[gpu]'"
_MAIN_PACKAGES = ("torch", "transformers", "deepspeed")
_ATTENTION = ("flash-attn-3", "flash-attn-4", "flash-attn")


def facts() -> Iterator[MachineFact]:
    """Processors, packages, GPUs, kernels and engine, each in one line."""
    yield MachineFact(subject="processors", severity="ok", message=_processors())
    yield _packages()
    if importlib.util.find_spec("pynvml") is None:
        return
    found = gpus.answering()
    yield from _gpus(found)
    if found:
        yield _kernels()
    yield _engine(has_gpu=bool(found))


def _processors() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory.usable_gib():.1f} GiB of memory"


def _packages() -> MachineFact:
    unmet = versions.unmet_requirements()
    if unmet:
        more = f" and {len(unmet) - 1} more" if len(unmet) > 1 else ""
        message = f"{unmet[0]}{more}"
        return MachineFact(
            subject="packages", severity="bad", message=message, command=_INSTALL_WORKER
        )
    shown = ", ".join(f"{name} {installed_version(name)}" for name in _MAIN_PACKAGES)
    return MachineFact(subject="packages", severity="ok", message=shown)


def _gpus(found: list[Gpu]) -> Iterator[MachineFact]:
    """The GPUs, then what is wrong with them."""
    problems = [*preflight.missing_gpus(), *preflight.held_gpus(), *preflight.wrong_driver()]
    if found:
        names = sorted({f"{gpu.name} ({gpu.memory_gib:.1f} GiB)" for gpu in found})
        message = f"{len(found)} × {' and '.join(names)}"
        yield MachineFact(subject="GPU", severity="ok", message=message)
    elif not problems:
        message = "none: training and scoring use the processors"
        yield MachineFact(subject="GPU", severity="ok", message=message)
    for problem in problems:
        yield _problem(problem)


def _problem(finding: Finding) -> MachineFact:
    return MachineFact(
        subject=finding.check, severity="bad", message=finding.message, command=finding.hint
    )


def _kernels() -> MachineFact:
    liger = installed_version("liger-kernel")
    attention = next((name for name in _ATTENTION if installed_version(name)), None)
    shown = f"{attention} {installed_version(attention)}" if attention else "torch's attention"
    if liger is None:
        message = f"{shown}; Liger is not installed, which makes training faster"
        return MachineFact(
            subject="kernels", severity="warn", message=message, command=_INSTALL_KERNELS
        )
    return MachineFact(subject="kernels", severity="ok", message=f"{shown}, Liger {liger}")


def _engine(*, has_gpu: bool) -> MachineFact:
    """What `eval.backend: auto` generates with."""
    vllm = vllm_package.examine()
    if vllm.problem is not None:
        return MachineFact(
            subject="engine", severity="bad", message=vllm.problem, command=vllm.command
        )
    if vllm.installed:
        message = f"vLLM {installed_version('vllm')}"
        if not has_gpu:
            message = f"Transformers on the processors; {message} if the spec names it"
        return MachineFact(subject="engine", severity="ok", message=message)
    if has_gpu:
        message = "Transformers; vLLM is faster and is not installed"
        return MachineFact(subject="engine", severity="warn", message=message, command=vllm.command)
    return MachineFact(subject="engine", severity="ok", message="Transformers on the processors")


def main() -> None:
    sys.stdout.buffer.write(records.encode_line(MachineAnswer(facts=tuple(facts()))))


if __name__ == "__main__":
    run_program(main)
