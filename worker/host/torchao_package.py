"""Checks whether torchao is installed, without importing it.

    python -m worker.host.torchao_package

prints the answer as JSON, for `validate` and `enqueue`.
"""

from __future__ import annotations

import importlib.util
import sys

from jobspec.records import base as records
from jobspec.records.answers import PackageAnswer
from jobspec.spec import optional_packages
from jobspec.spec.schema import JobSpec


def examine() -> PackageAnswer:
    """Whether torchao is installed here."""
    return PackageAnswer(installed=importlib.util.find_spec(optional_packages.TORCHAO) is not None)


def check(spec: JobSpec, *, on_gpu: bool) -> None:
    """Refuse a job that needs torchao, or a GPU for it, where there is none, before it is begun.

    Raises:
        SpecError: with the field that needs it.
    """
    if spec.train is not None and spec.train.precision == "float8" and not on_gpu:
        raise optional_packages.missing_gpu()
    if optional_packages.needs_torchao(spec) is not None and not examine().installed:
        raise optional_packages.missing_torchao(spec)


def main() -> None:
    sys.stdout.buffer.write(records.encode_line(examine()))


if __name__ == "__main__":  # the worker imports this module, and needs no more of it
    from worker.program import run_program

    run_program(main)
