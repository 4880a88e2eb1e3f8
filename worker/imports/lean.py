"""Keeps out what Transformers and TRL import wherever it is installed, and a phase never uses.

A start is mostly imports. While `lean()` is open, packages that nothing here uses are declared
absent; and what Transformers reads from the disk as it is imported, all its models' sources and all
packages' lists of files, is read once instead of twice. Afterwards code that does need one of those
packages imports it; only peft stays absent where no adapter is trained, since Accelerate asks again
and again whether a model is peft's. benchmarks/start.py measures it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jobspec.storage.layout import JobPaths

_UNUSED = ("sklearn", "scipy", "wandb", "trio")
_READER = "transformers.utils.import_utils"


@contextlib.contextmanager
def lean(*, adapters: bool = False) -> Iterator[None]:
    """Import what is heavy in here. `adapters`: peft is used."""
    absent = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] - Python's own "absent"
    if not adapters:
        sys.modules.setdefault("peft", None)  # type: ignore[arg-type] - the same
    finder = _Reader()
    sys.meta_path.insert(0, finder)
    distributions = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = functools.cache(distributions)
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = distributions
        sys.meta_path.remove(finder)
        for name in absent:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]


def wants_adapters(arguments: Sequence[str]) -> bool:
    """Whether the attempt that a phase's command line names trains an adapter.

    True where its spec can't be read: the code that needs it will report why.
    """
    try:
        spec = json.loads(JobPaths(Path(arguments[-1]).parents[1]).spec.read_bytes())
        adapter = spec["train"].get("lora")
        return adapter is not None
    except (OSError, LookupError, AttributeError, TypeError, ValueError):
        return True


def spare_compiler() -> None:
    """Import DeepSpeed's Muon, which it compares every optimizer's class with, uncompiled.

    That module decorates its functions with `torch.compile`, which imports the whole compiler: a
    second of every start, for an optimizer that no spec can ask for.
    """
    import torch

    compiler = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment] - as a decorator it is used
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        torch.compile = compiler


class _Reader(importlib.abc.MetaPathFinder):
    """Finds Transformers' reader of its models' sources, and makes it remember what it read."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _READER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(_read_once, spec.loader.exec_module)
        return spec


def _read_once(execute: Any, module: Any) -> None:
    execute(module)
    read = getattr(module, "create_import_structure_from_path", None)
    if read is None:
        return  # another version's
    remembered = functools.cache(read)

    def structure(path: Any) -> Any:
        place = Path(path)
        return remembered(str(place.parent if place.is_file() else place))

    module.create_import_structure_from_path = structure
