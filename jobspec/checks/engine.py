"""Checks that the vLLM that a spec asks for can run, with the Python of the workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobspec import worker_command
from jobspec.errors import JobspecError, SpecError
from jobspec.records.answers import VllmAnswer
from jobspec.spec.schema import JobSpec


def check_engine(spec: JobSpec, file: Path) -> Iterator[str]:
    """Check a spec whose `eval.backend` is `vllm`; yield warnings.

    Workers may have other packages than this machine, so a missing vLLM is only a warning.

    Raises:
        SpecError: vLLM is half installed, or was built for another torch.
    """
    if spec.eval is None or spec.eval.backend != "vllm":
        return
    try:
        answer = worker_command.ask(
            VllmAnswer, "worker.host.vllm_package", (), what="vLLM can't be checked"
        )
    except JobspecError as error:
        yield error.message.splitlines()[0]
        return
    if answer.problem is not None:
        raise SpecError(
            answer.problem, file=file, place="$.eval.backend", hint=f"run `{answer.command}`"
        )
    if not answer.installed:
        yield f"vLLM is not installed here; workers need it: `{answer.command}`"
