"""Where a benchmark's questions come from: a directory, the root's cache, or the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from jobspec.benchmarks import registry
from jobspec.benchmarks.registry import Benchmark
from jobspec.errors import BenchmarkError
from jobspec.storage import fs


class _Hub(NamedTuple):
    """A dataset on the hub, and what it calls our fields."""

    path: str
    split: str
    fields: Mapping[str, str]


# The datasets lm-eval's own tasks of these names use.
_HUB = {
    "minerva_math500": _Hub(
        "HuggingFaceH4/MATH-500",
        "test",
        {"id": "unique_id", "problem": "problem", "answer": "answer", "solution": "solution"},
    ),
    "aime24": _Hub(
        "Maxwell-Jia/AIME_2024",
        "train",
        {"id": "ID", "problem": "Problem", "answer": "Answer", "solution": "Solution"},
    ),
    "aime25": _Hub(
        "math-ai/aime25", "test", {"id": "id", "problem": "problem", "answer": "answer"}
    ),
}


def is_own(name: str, where: Sequence[Path]) -> bool:
    """Whether a benchmark is ours to ask and score; all other names are lm-eval's."""
    return name in registry.OWN or registry.find(name, where) is not None


def load(name: str, where: Sequence[Path], cache: Path) -> Benchmark:
    """A benchmark of ours: from the first directory that has its file, else from the hub.

    Raises:
        BenchmarkError: the file is damaged, or there is none and the hub is out of reach.
    """
    found = registry.find(name, where)
    return registry.read(name, found if found is not None else fetch(name, cache))


def fetch(name: str, cache: Path) -> Path:
    """Download a benchmark into `cache` as a benchmark file, and return the file.

    Raises:
        BenchmarkError: it is not one of ours, or the hub can't be reached.
    """
    hub = _HUB.get(name)
    if hub is None:
        raise BenchmarkError(
            f"`{name}` is not to be had from the hub",
            hint=f"put {registry.file_name(name)} into eval.benchmark_dir "
            f"or ${registry.DIRECTORY_VARIABLE}",
        )
    rows = _download(name, hub)
    data = b"".join(msgspec.json.encode(_renamed(row, hub.fields)) + b"\n" for row in rows)
    path = cache / registry.file_name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fs.publish(path, data)
    registry.read(name, path)
    return path


def _download(name: str, hub: _Hub) -> Any:
    import datasets

    try:
        return datasets.load_dataset(hub.path, split=hub.split)
    except (OSError, ValueError, ImportError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE")
        why = "this process is offline" if offline else str(error).strip().splitlines()[0]
        raise BenchmarkError(
            f"`{name}` is in no benchmark directory, and `{hub.path}` can't be loaded: {why}",
            hint="run `jobspec fetch SPEC…` on a node with network, "
            f"or name a directory in eval.benchmark_dir or ${registry.DIRECTORY_VARIABLE}",
        ) from error


def _renamed(row: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    named = {ours: row[theirs] for ours, theirs in fields.items()}
    return {key: value if value is None else str(value) for key, value in named.items()}
