"""Keeps out what Transformers and TRL import wherever it is installed, and training never uses.

Importing this module declares those packages absent, so it goes before the others; `restore()`
after them lets whoever does need one import it. Seen: a seventh of a rank's imports.
"""

from __future__ import annotations

import importlib
import sys

_UNUSED = ("sklearn", "scipy", "wandb")
_declared = [name for name in _UNUSED if name not in sys.modules]
for _name in _declared:
    sys.modules[_name] = None  # type: ignore[assignment] - Python's own way to say "absent"


def restore() -> None:
    """From now on they may be imported."""
    for name in _declared:
        if sys.modules.get(name, sys) is None:
            del sys.modules[name]


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
