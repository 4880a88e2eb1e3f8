"""Scores of finished jobs: tables, confidence intervals and comparisons.

The package can be called: `jobspec.results(root)` lists the runs of a root. Python gives a package
the name of its sub-package as soon as a module of that is imported, so a function of the same name
would be hidden.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobspec.results.listing import RunTable


class _CallablePackage(types.ModuleType):
    def __call__(self, root: str | Path | None = None, *jobs: str, cost: bool = False) -> RunTable:
        from jobspec.results.listing import results

        return results(root, *jobs, cost=cost)


sys.modules[__name__].__class__ = _CallablePackage
