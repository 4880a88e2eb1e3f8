"""Checks that optional packages which a spec's training needs are installed for the workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobspec import worker_command
from jobspec.errors import JobspecError
from jobspec.records.answers import PackageAnswer
from jobspec.spec import optional_packages
from jobspec.spec.schema import JobSpec


def check_packages(spec: JobSpec, file: Path) -> Iterator[str]:
    """Check a spec with the Python of the workers; yield warnings.

    Raises:
        SpecError: a package is missing.
    """
    if optional_packages.needs_torchao(spec) is None:
        return
    try:
        answer = worker_command.ask(
            PackageAnswer, "worker.host.torchao_package", (), what="torchao can't be checked"
        )
    except JobspecError as error:
        yield error.message.splitlines()[0]
        return
    if not answer.installed:
        raise optional_packages.missing_torchao(spec, file=file)
