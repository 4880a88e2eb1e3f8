"""Where a benchmark's questions come from: a directory, the root's cache, or the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobspec.benchmarks import question_file, registry
from jobspec.benchmarks.benchmark import Benchmark, HubDataset
from jobspec.benchmarks.question_file import DIRECTORY_VARIABLE, QuestionSet
from jobspec.errors import BenchmarkError
from jobspec.spec.schema import EvalSpec
from jobspec.storage import fs


def load(name: str, where: Sequence[Path], cache: Path) -> QuestionSet:
    """A benchmark of ours: from the first directory that has its file, else from the hub.

    Raises:
        BenchmarkError: the file is damaged, or there is none and the hub can't be reached.
    """
    benchmark = registry.get(name)
    if benchmark is None:
        raise BenchmarkError(f"`{name}` is none of jobspec's benchmarks")
    file = question_file.find(benchmark, where)
    return question_file.read(benchmark, file if file is not None else fetch(benchmark, cache))


def refuse_missing(evaluation: EvalSpec, cache: Path) -> None:
    """Fetch what a job will be scored on, so that a missing benchmark is found before training.

    Raises:
        BenchmarkError: it names every benchmark of ours that can't be had here.
    """
    where = question_file.directories(evaluation.benchmark_dir, cache)
    errors: list[BenchmarkError] = []
    for name in evaluation.benchmarks:
        if question_file.is_ours(name, where):
            try:
                load(name, where, cache)
            except BenchmarkError as error:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        raise BenchmarkError("; ".join(map(str, errors)), hint="; ".join(hints) or None)


def fetch(benchmark: Benchmark, cache: Path) -> Path:
    """Download a benchmark into `cache` as a benchmark file, and return the file.

    Raises:
        BenchmarkError: it is not on the hub for everyone, or the hub can't be reached.
    """
    dataset = benchmark.dataset
    if dataset is None:
        raise BenchmarkError(
            f"`{benchmark.name}` can't be downloaded from the hub",
            hint=question_file.get_it_hint(benchmark),
        )
    rows = _download(benchmark.name, dataset)
    data = b"".join(msgspec.json.encode(_renamed(row, dataset.columns)) + b"\n" for row in rows)
    path = cache / benchmark.files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    fs.publish(path, data)
    question_file.read(benchmark, path)
    return path


def _download(name: str, dataset: HubDataset) -> Any:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if dataset.file is not None:
            return _file_rows(dataset.path, dataset.file)
        return datasets.load_dataset(dataset.path, dataset.config, split=dataset.split)
    except (OSError, ValueError, ImportError, HfHubHTTPError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE")
        why = "this process is offline" if offline else str(error).strip().splitlines()[0]
        raise BenchmarkError(
            f"`{name}` is in no benchmark directory, and `{dataset.path}` can't be loaded: {why}",
            hint="run `jobspec fetch SPEC…` on a node with network, "
            f"or name a directory in eval.benchmark_dir or ${DIRECTORY_VARIABLE}",
        ) from error


def _file_rows(dataset: str, file: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file of a dataset, whose texts may have many megabytes."""
    import huggingface_hub

    path = Path(huggingface_hub.hf_hub_download(dataset, file, repo_type="dataset"))
    with path.open("rb") as lines:
        return iter([msgspec.json.decode(line) for line in lines if line.strip()])


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    named = {ours: row[theirs] for ours, theirs in columns.items()}
    kept = (str, list, dict, type(None))
    return {key: value if isinstance(value, kept) else str(value) for key, value in named.items()}
