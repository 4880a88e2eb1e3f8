"""Every benchmark of jobspec's by name. All other names are tasks of lm-eval."""

from __future__ import annotations

import importlib
import pkgutil
from fnmatch import fnmatchcase
from functools import cache

import msgspec

import jobspec.benchmarks
from jobspec.benchmarks.benchmark import Benchmark


def all_benchmarks() -> tuple[Benchmark, ...]:
    """The benchmarks that have a name, those a spec has by default first."""
    order = {name: number for number, name in enumerate(jobspec.benchmarks.DEFAULT)}
    named = [each for each in _described() if not each.describes_many]
    return tuple(sorted(named, key=lambda each: (order.get(each.name, len(order)), each.name)))


def get(name: str) -> Benchmark | None:
    """The benchmark of this name or alias; None for a name that is not ours.

    Aliases are understood in upper and lower case, but not where a user's own benchmark could have
    that name.
    """
    named = {each.name: each for each in all_benchmarks()}
    if name in named:
        return named[name]
    for each in _described():
        if each.describes_many and fnmatchcase(name, each.name):
            return msgspec.structs.replace(each, name=name, files=(f"{name}.jsonl",))
    folded = name.casefold()
    return next((each for each in named.values() if folded in (each.name, *each.aliases)), None)


def canonical_name(name: str) -> str:
    """The name under which a spec keeps a benchmark: `MATH-500` → `minerva_math500`."""
    benchmark = get(name)
    return name if benchmark is None else benchmark.name


@cache
def _described() -> tuple[Benchmark, ...]:
    """What the modules of this package say in their `BENCHMARKS`."""
    package = jobspec.benchmarks
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for found in pkgutil.iter_modules(package.__path__)
    ]
    return tuple(each for module in modules for each in getattr(module, "BENCHMARKS", ()))
