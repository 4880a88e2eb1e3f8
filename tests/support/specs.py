"""Builds specs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from jobspec.spec import builder, identity
from jobspec.spec.schema import JobSpec


def job_spec(model: str | Path = "some/model", /, **changes: Any) -> JobSpec:
    """A spec whose fields are valid. Unless `train` is given it trains nothing.

    Args:
        changes: groups, as dictionaries or structs; or single fields by dotted name, such as
            `data__seed=1`.
    """
    fields: dict[str, Any] = {"name": "job", "model": {"name": str(model)}, "train": None}
    for name, value in changes.items():
        group, _, field = name.partition("__")
        plain = msgspec.to_builtins(value, enc_hook=str)
        fields[group] = {**(fields.get(group) or {}), field: plain} if field else plain
    return msgspec.convert(fields, JobSpec)


def score_spec(name: str = "job", notes: str = "") -> JobSpec:
    """A spec that trains nothing, so that it needs no data."""
    return job_spec(name=name, notes=notes)


def train_spec(model: str | Path, data: str | Path = "/d", /, **changes: Any) -> JobSpec:
    """A spec that trains `model` on short rows of `data`; `changes` as in `job_spec`."""
    small = {"train": {"max_length": 1024}, "eval": {"benchmarks": ["aime24"]}}
    return job_spec(model, **{"data__path": data, **small, **changes})


def base_spec(model: str = "Qwen/Qwen3-8B", **fields: Any) -> JobSpec:
    """A spec that trains nothing: it needs no data, and its id is the same everywhere."""
    spec = builder.build(builder.Request(models=[model], train=False))[0]
    return msgspec.structs.replace(spec, **fields)


def tuned_spec(model: str = "Qwen/Qwen3-8B", rate: float = 1e-5, **fields: Any) -> JobSpec:
    """A spec that trains; its data's hash is filled in, as enqueue would have."""
    spec = builder.build(
        builder.Request(models=[model], learning_rates=[rate], data="/data/a.jsonl")
    )[0]
    assert spec.data is not None
    data = msgspec.structs.replace(spec.data, sha256="0" * 64)
    return msgspec.structs.replace(spec, data=data, **fields)


def tiny_spec(tiny: Path, *, evaluate: bool = False, name: str = "tiny", **train: Any) -> JobSpec:
    """A spec that trains the tiny model on its own rows."""
    data = tiny / "train.jsonl"
    settings: dict[str, Any] = {
        "learning_rate": 5e-3,
        "num_train_epochs": 4.0,
        "max_length": 512,
        "per_device_train_batch_size": 4,
        "gradient_checkpointing": False,
        **train,
    }
    scored = {
        "benchmarks": ["aime_demo"],
        "benchmark_dir": tiny / "benchmarks",
        "avg_k": 2,
        "max_gen_toks": 48,
        "limit": 4,
    }
    return train_spec(
        tiny / "model",
        data,
        name=name,
        model__dtype="float32",
        data__sha256=hashlib.sha256(data.read_bytes()).hexdigest(),
        data__allow_contaminated=evaluate,  # its benchmark asks what its rows teach
        train=settings,
        eval=scored if evaluate else None,
    )


def with_model(spec: JobSpec, model: Path) -> JobSpec:
    """A spec on another model, whose own code is run where it has any."""
    coded = any(model.glob("*.py"))
    changed = msgspec.structs.replace(spec.model, name=str(model), trust_remote_code=coded)
    return msgspec.structs.replace(spec, model=changed)


def write_spec(path: Path, spec: JobSpec) -> Path:
    """Write a spec file; returns its path."""
    path.write_bytes(identity.canonical(spec))
    return path
