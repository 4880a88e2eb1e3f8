"""A spec's settings as a flat table, `train.learning_rate` → 1e-05, and which of them differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

import msgspec

from jobspec.records.base import UNSET, UnsetType
from jobspec.spec.schema import DataSpec, JobSpec, ModelSpec

Setting = bool | int | float | str | None
_NOT_SETTINGS = ("schema_version", "name")
_DEFAULT_SPEC = JobSpec(name="x", model=ModelSpec(name="x"), data=DataSpec())


def flatten(spec: JobSpec) -> dict[str, Setting]:
    """Every setting by its dotted name. A group that the spec leaves out has none."""
    found = dict(_flat(msgspec.to_builtins(spec), ""))
    return {
        name: value
        for name, value in found.items()
        if name not in _NOT_SETTINGS and not (value is None and "." not in name)
    }


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, dict):
        for name, inner in cast("dict[str, Any]", value).items():
            yield from _flat(inner, f"{prefix}.{name}".lstrip("."))
        if prefix.count(".") and value:
            yield prefix, "yes"  # a group that is there only if it is wanted, such as `train.lora`
    elif isinstance(value, list | tuple):
        yield prefix, _listed(cast("list[Any]", value))
    else:
        yield prefix, value


def _listed(values: list[Any]) -> str:
    texts = (
        each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in values
    )
    return ", ".join(texts)


DEFAULTS = flatten(_DEFAULT_SPEC)


def changed(spec: JobSpec) -> dict[str, Setting]:
    """The settings that differ from their defaults."""
    return {
        name: value
        for name, value in flatten(spec).items()
        if name not in DEFAULTS or value != DEFAULTS[name]
    }


def groups(spec: JobSpec) -> list[str]:
    """The groups that the spec has: a job that trains nothing has no `train`."""
    return [name for name in spec.__struct_fields__ if getattr(spec, name) is not None]


# --- which settings differ between runs

# The first columns; the others follow in the order of the spec.
_FIRST = (
    *("model.name", "training", "train.learning_rate", "train.num_train_epochs"),
    *("train.global_batch_size", "train.seed"),
)
_TRAINED = "train"  # the group of a spec that trains
_NOT_COMPARED = re.compile(
    r"notes|tracking\..*|resources\..*|data\.sha256|data\.allow_contaminated"
)
_TITLES = {
    "model.name": "model",
    "train.learning_rate": "lr",
    "train.num_train_epochs": "epochs",
    "train.global_batch_size": "batch",
    "train.lora.r": "LoRA r",
}


class HasSettings(Protocol):
    """A run with the groups of its spec and the settings that differ from their defaults."""

    @property
    def groups(self) -> list[str]: ...

    @property
    def settings(self) -> dict[str, Setting]: ...


def setting(run: HasSettings, name: str) -> Setting | UnsetType:
    """A run's setting; UNSET if it has no such group, as a job that only scores has no `train`.

    `training` is how a model was trained: `full`, or `LoRA r 8`.
    """
    if name == "training":
        return _training(run)
    if name in run.settings:
        return run.settings[name]
    return DEFAULTS.get(name, UNSET) if name.split(".")[0] in run.groups else UNSET


def differing(runs: Sequence[HasSettings]) -> list[str]:
    """The names of the settings on which the runs that have them disagree.

    Settings that change nothing about a result, such as `notes`, are not compared.
    """
    names = dict.fromkeys((*_FIRST, *DEFAULTS, *(name for run in runs for name in run.settings)))
    found = [
        name
        for name in names
        if _NOT_COMPARED.fullmatch(name) is None and len(_values(runs, name)) > 1
    ]
    said = {"train.lora", "train.lora.r"} if "training" in found else set[str]()
    return [name for name in found if name not in said]


def title(name: str, names: Sequence[str]) -> str:
    """A short title for a setting's column; the whole name if another of `names` ends alike."""
    last = name.rpartition(".")[2]
    alike = sum(each.rpartition(".")[2] == last for each in names)
    return _TITLES.get(name) or (last if alike < 2 else name)


def spell(value: Setting | UnsetType) -> str:
    """A setting as people write it: `1e-5`, `yes`, `–` for null; empty if there is none."""
    if value is UNSET:
        return ""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        from jobspec.spec import builder  # here, since `status` need not load it

        return builder.spell_rate(value) if 0 < value < 0.01 else f"{value:.6g}"
    return value


def short_paths(values: Iterable[Setting | UnsetType]) -> dict[Setting | UnsetType, str]:
    """Spell values; of paths only the last part, if the paths do not differ elsewhere."""
    spelled = {value: spell(value) for value in values}
    last = {value: _last_part(text) for value, text in spelled.items()}
    return last if len(set(last.values())) == len(last) else spelled


def _last_part(text: str) -> str:
    return text.rstrip("/").rpartition("/")[2] if text.startswith(("/", "~", ".")) else text


def _values(runs: Sequence[HasSettings], name: str) -> set[Setting]:
    return {value for run in runs if (value := setting(run, name)) is not UNSET}


def _training(run: HasSettings) -> Setting | UnsetType:
    if _TRAINED not in run.groups:
        return UNSET
    return f"LoRA r {setting(run, 'train.lora.r')}" if setting(run, "train.lora") else "full"
