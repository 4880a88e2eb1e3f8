"""What this machine's GPUs, packages and engine lack, with the Python of the workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobspec import worker_command
from jobspec.errors import JobspecError
from jobspec.records.answers import MachineAnswer, MachineFact

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def examine() -> MachineAnswer:
    """Ask the worker's Python, which takes a fraction of a second.

    Raises:
        JobspecError: the worker's packages are not installed.
    """
    return worker_command.ask(
        MachineAnswer, "worker.host.machine", (), what="this machine can't be examined"
    )


def check_machine(driver: Path = _NVIDIA_DRIVER) -> Iterator[str]:
    """Warnings about a machine with GPUs whose workers would claim no job, or fail in it.

    A machine without NVIDIA's driver, such as a login node, is not examined. They are warnings
    because workers may run on other machines.
    """
    if not driver.exists():
        return
    try:
        answer = examine()
    except JobspecError as error:
        yield error.message.splitlines()[0]
        return
    yield from (_warning(fact) for fact in answer.facts if fact.severity == "bad")


def _warning(fact: MachineFact) -> str:
    mend = f" ({fact.command})" if fact.command else ""
    return f"on this machine {fact.message}{mend}"
