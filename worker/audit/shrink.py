"""A spec that trains in seconds, in the way a given spec trains.

Model, data and steps get smaller. What decides whether a resume is right stays: packing, LoRA, ZeRO
stage, offloading, dtype, optimizer, scheduler, seeds, held-out rows and mixtures.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import DataError, SpecError
from jobspec.models.directory import find_model
from jobspec.spec.schema import DataSpec, JobSpec, SourceSpec, TrainSpec
from jobspec.spec.sources import list_sources
from jobspec.storage import data_files
from jobspec.storage.layout import RootPaths
from worker.audit import small_model
from worker.rows.row_source import RowSource

EPOCHS = 3.0
SAVE_EVERY = 3
_BATCH = 8
_MAX_LENGTH = 2048
_LONGEST_TEXT = 240  # characters of one text of a row
_READ = 512
_SPREAD = 4  # rows from which one is chosen
_TAG = re.compile(r"(</?\w{1,20}>)")


def shrink(
    spec: JobSpec, root: RootPaths, directory: Path, *, ranks: int, on_gpu: bool
) -> tuple[JobSpec, list[str]]:
    """Write a small model and a few rows below `directory`.

    Args:
        root: in whose cache a model of the hub is looked for.
        ranks: on which it will be trained.

    Returns:
        The spec that trains them, and what was changed.

    Raises:
        SpecError: it trains nothing, or `ranks` do not fit its sequence parallelism.
        ModelError: its model is not here, or no small one can be made.
        DataError: its data can't be read.
    """
    if spec.train is None or spec.data is None:
        raise SpecError("this spec trains nothing, so nothing is resumed", place="$.train")
    train, notes = _train(spec.train, ranks, on_gpu=on_gpu)
    kept = spec.model.attn_implementation in ("auto", "sdpa", "eager") or on_gpu
    if not kept:
        notes.append(f"attn_implementation {spec.model.attn_implementation} → auto: no GPU")
    small = directory / "model"
    notes += small_model.make(
        find_model(spec.model, root),
        small,
        dtype=spec.model.dtype,
        trust_remote_code=spec.model.trust_remote_code,
        seed=train.seed,
    )
    model = msgspec.structs.replace(
        spec.model,
        name=str(small),
        revision=None,
        attn_implementation=spec.model.attn_implementation if kept else "auto",
    )
    data, rows = _data(spec.data, directory, train.global_batch_size)
    notes.append(f"{rows} rows, texts of at most {_LONGEST_TEXT} characters")
    resources = msgspec.structs.replace(spec.resources, gpus=ranks, gpu_memory_gib=None)
    changes: dict[str, Any] = {"model": model, "data": data, "train": train, "eval": None}
    return msgspec.structs.replace(spec, **changes, resources=resources), notes


def _train(train: TrainSpec, ranks: int, *, on_gpu: bool) -> tuple[TrainSpec, list[str]]:
    degree = train.sequence_parallel
    if ranks % degree:
        raise SpecError(
            f"groups of {degree} ranks can't be made of {ranks}",
            place="$.train.sequence_parallel",
            hint=f"give --ranks {degree}, or a multiple of it",
        )
    groups = ranks // degree
    batch = -(-min(train.global_batch_size, _BATCH) // groups) * groups
    # At least two micro-batches a step where the batch allows it, so that gradients are summed.
    most = min(train.per_device_train_batch_size, max(1, batch // groups // 2))
    micro = next(size for size in range(most, 0, -1) if not batch // groups % size)
    changes: dict[str, Any] = {
        "global_batch_size": batch,
        "per_device_train_batch_size": micro,
        "num_train_epochs": EPOCHS,
        "max_length": min(train.max_length, _MAX_LENGTH),
    }
    if train.lora is not None:
        lora = msgspec.structs.replace(train.lora, r=min(train.lora.r, 4))
        changes["lora"] = lora
    if not on_gpu:  # the compiler takes minutes, and a CPU does not multiply in float8
        changes |= {"torch_compile": False, "precision": None}
    small = msgspec.structs.replace(train, **changes)
    before, after = msgspec.to_builtins(train), msgspec.to_builtins(small)
    return small, [f"{key} {before[key]} → {after[key]}" for key in changes if key != "lora"
                   and before.get(key) != after.get(key)]  # fmt: skip


def _data(data: DataSpec, directory: Path, batch: int) -> tuple[DataSpec, int]:
    """Few and short rows of each source, below `directory`, and how many there are.

    The last batch of an epoch has half of the rows of the others.
    """
    sources = list_sources(data)
    wanted = round((4 * batch + (batch + 1) // 2) / (1 - data.eval_split_ratio))
    files: list[Path] = []
    for number, source in enumerate(sources):
        file = directory / f"rows-{number}.jsonl"
        file.write_bytes(b"".join(_short_rows(source, directory, -(-wanted // len(sources)))))
        files.append(file)
    hashes = [data_files.digest(file)[0] for file in files]
    changes: dict[str, Any] = {
        "max_train_samples": None,
        "max_dropped_frac": 1.0,
        "allow_contaminated": True,
    }
    if data.path is not None:
        changes |= {"path": str(files[0]), "sha256": hashes[0]}
    else:
        changes["sources"] = tuple(
            msgspec.structs.replace(given, name=source.name, path=str(file), sha256=sha256)
            for given, source, file, sha256 in zip(
                data.sources, sources, files, hashes, strict=True
            )
        )
    return msgspec.structs.replace(data, **changes), sum(
        file.read_bytes().count(b"\n") for file in files
    )


def _short_rows(source: SourceSpec, scratch: Path, wanted: int) -> Iterator[bytes]:
    """Short ones of the first rows, of different lengths, in their order, one a line.

    Raises:
        DataError: there are none.
    """
    with RowSource(Path(source.path), scratch) as rows:
        lines = itertools.islice(data_files.read_lines(rows.jsonl), _READ)
        cut = [msgspec.json.encode(_cut(msgspec.json.decode(line))) for _, line in lines]
    if not cut:
        raise DataError("has no rows", file=source.path, place="$.data.path")
    pool = sorted(range(len(cut)), key=lambda index: len(cut[index]))[: _SPREAD * wanted]
    chosen = {pool[number * len(pool) // wanted] for number in range(wanted)}
    yield from (cut[index] + b"\n" for index in sorted(chosen))


def _cut(value: Any) -> Any:
    """A row whose texts are short; tags such as `</think>` stay."""
    if isinstance(value, str):
        parts = _TAG.split(value)
        most = max(40, _LONGEST_TEXT // len(parts))
        return "".join(part[:most] for part in parts)
    if isinstance(value, list):
        return [_cut(each) for each in value]
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in value.items()}
    return value
