"""Avoids imports that Transformers, TRL and DeepSpeed make but that no phase needs.

The start of a phase is mostly imports. Importing `worker.training.train` takes 7.0 s of CPU time
and 3,910 modules with everything below, and without it (CPU seconds and share of the 7.0 s):

- optional packages hidden (sklearn, scipy, wandb, trio): 2.5 s more (36 %), 1,208 modules;
- peft hidden: 0.2 s more (3 %), 234 modules;
- the sources of Transformers' models read once instead of twice: 0.6 s more (9 %);
- the files of all distributions read once instead of twice: 0.4 s more (6 %);
- `spare_compiler`: 1.1 s more (16 %), 538 modules.

Measured with Python 3.11, torch 2.13 (CPU), Transformers 5.19, TRL 1.16 and DeepSpeed 0.19.8, in
seven alternating runs. benchmarks/start.py measures the start of whole jobs.
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

_HIDDEN = ("sklearn", "scipy", "wandb", "trio", "torchao")
_READER = "transformers.utils.import_utils"


@contextlib.contextmanager
def lean(*, adapters: bool = False) -> Iterator[None]:
    """Import heavy libraries inside this context.

    Optional packages appear to be not installed while it is open, and can be imported afterwards.

    Args:
        adapters: whether peft is used. Otherwise it stays hidden, because Accelerate tries to
            import it again whenever it checks a model.
    """
    hidden = [name for name in _HIDDEN if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] - Python's own "absent"
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
        for name in hidden:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]


def wants_adapters(arguments: Sequence[str]) -> bool:
    """Whether the attempt in a phase's command line trains an adapter.

    True if its spec can't be read; the phase will report that.
    """
    try:
        spec = json.loads(JobPaths(Path(arguments[-1]).parents[1]).spec.read_bytes())
        adapter = spec["train"].get("lora")
        return adapter is not None
    except (OSError, LookupError, AttributeError, TypeError, ValueError):
        return True


def spare_compiler() -> None:
    """Import DeepSpeed's Muon optimizer with `torch.compile` disabled.

    DeepSpeed compares every optimizer with that class. The module decorates functions with
    `torch.compile`, which imports the whole compiler, for an optimizer that no spec can choose.
    """
    import torch

    compiler = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment] - used as a decorator only
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        torch.compile = compiler


class _Reader(importlib.abc.MetaPathFinder):
    """Import hook that lets Transformers cache what it reads from its models' sources."""

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
        return  # another version of Transformers
    cached = functools.cache(read)

    def structure(path: Any) -> Any:
        file = Path(path)
        return cached(str(file.parent if file.is_file() else file))

    module.create_import_structure_from_path = structure
