"""Builds specs from options, each of which overrides the one before.

```
preset of the model's family → --smoke → --learning-rate, --epochs, --data … → --set k=v
```
Every spec is written with all its fields, so that a later default does not change its meaning.
Fields with a `NewDefault` get that value unless one of the above sets them.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import msgspec

from jobspec.errors import SpecError
from jobspec.spec import parsing, rules, secrets
from jobspec.spec.benchmark_settings import with_canonical_names
from jobspec.spec.identity import canonical
from jobspec.spec.schema import JobSpec, NewDefault, Spec, TrainSpec
from jobspec.spec.sources import list_sources
from jobspec.storage import fs

DEFAULT_DATA = "data/train.jsonl"
_RATE = "train.learning_rate="
# [NAME=]PATH[:REPEAT] or [NAME=]PATH[:WEIGHT%]
_SOURCE = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9_-]*)=)?(.*?)(?::(\d+(?:\.\d+)?)(%)?)?", re.DOTALL)

# Sampling the publishers scored their models with. First match wins, on the name without its owner.
# Source: Qwen3 technical report, Tables 17 and 18; Qwen3-2507 model cards; Olmo 3 report,
# Table 16 and A.8.1.
PRESETS: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"qwen3.*instruct", {"eval": {"temperature": 0.7, "top_p": 0.8, "top_k": 20}}),
    (r"qwen3", {"eval": {"temperature": 0.6, "top_p": 0.95, "top_k": 20}}),
    (r"olmo-?3", {"eval": {"temperature": 0.6, "top_p": 0.95}}),
)

# Small enough for two CPU cores and a tiny model; nothing of it is meant to score well.
SMOKE: dict[str, Any] = {
    "data": {"max_train_samples": 64, "max_dropped_frac": 1.0},
    "train": {"num_train_epochs": 1, "max_length": 1024},
    "eval": {"limit": 2, "avg_k": 2, "max_gen_toks": 512},
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `jobspec new` was asked for. Several models, rates or values of a field: their grid.

    Attributes:
        sweeps: fields with the values to try, each as `group.field=value,value`.
    """

    models: Sequence[str]
    learning_rates: Sequence[float] = ()
    sweeps: Sequence[str] = ()
    epochs: float | None = None
    benchmarks: Sequence[str] = ()
    data: str | None = None
    sources: Sequence[str] = ()
    name: str | None = None
    settings: Sequence[str] = ()
    smoke: bool = False
    train: bool = True

    def fields_set(self) -> set[str]:
        """The dotted fields that settings and sweeps name."""
        return {text.partition("=")[0].strip() for text in (*self.settings, *self.sweeps)}


def build(request: Request) -> list[JobSpec]:
    """The specs asked for, in grid order.

    Raises:
        SpecError: naming the field that is wrong, with a suggestion.
    """
    rates: Sequence[float | None] = request.learning_rates or (None,)
    if not request.train:
        rates = (None,)
    sweeps = [parse_sweep(text) for text in request.sweeps]
    grid = list(itertools.product(request.models, rates, *sweeps))
    built = [_build_one(request, grid_point, len(grid) > 1) for grid_point in grid]
    names = [spec.name for spec in built]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(
                f"two specs of the grid would be named `{name}`",
                hint="name each model, each learning rate and each value of a sweep once",
            )
    return built


def default_data() -> str:
    """$JOBSPEC_DATA, else `data/train.jsonl`."""
    return os.environ.get("JOBSPEC_DATA") or DEFAULT_DATA


def write(built: Sequence[JobSpec], directory: Path) -> list[tuple[Path, bool]]:
    """Write `<directory>/<name>.json` for each spec; none where one of the names is taken.

    Returns:
        The paths, and whether each was written; False where the same spec was there already.

    Raises:
        SpecError: another spec stands under a name; specs are never overwritten.
    """
    for spec in built:
        secrets.refuse(spec)
    places = [(directory / f"{spec.name}.json", canonical(spec)) for spec in built]
    fresh = [_is_free(path, data) for path, data in places]
    directory.mkdir(parents=True, exist_ok=True)
    for (path, data), is_fresh in zip(places, fresh, strict=True):
        if is_fresh:
            fs.publish(path, data)
    return [(path, is_fresh) for (path, _), is_fresh in zip(places, fresh, strict=True)]


def _is_free(path: Path, data: bytes) -> bool:
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        return True
    raise SpecError(
        "exists and says something else; specs are immutable",
        file=path,
        hint="choose another --name or another directory with -o",
    )


def _build_one(request: Request, point: Sequence[Any], grid: bool) -> JobSpec:
    """The spec at one point of the grid: a model, a learning rate, and a setting of each sweep."""
    model, rate, *swept = point
    settings = [*request.settings, *swept]
    fields: dict[str, Any] = {"name": "unnamed", "model": {"name": model}}
    _merge(fields, _preset(model))
    if request.smoke:
        _merge(fields, SMOKE)
    _merge(fields, _chosen(request, rate))
    touched = [apply(fields, setting) for setting in settings]
    if request.data is None and ["data", "path"] not in touched:
        _drop_default_path(fields.get("data"))
    training = fields.get("train", {})
    if not request.train or training is None:
        fields["train"] = None
        named = request.data is not None or request.sources
        if not named and not any(path[0] == "data" for path in touched):
            fields["data"] = None
    if "name" not in [path[0] for path in touched]:
        fields["name"] = _name(request, fields, swept, grid)
    _add_new_defaults(fields, JobSpec)
    return decode(fields, settings)


def _drop_default_path(data: Any) -> None:
    if isinstance(data, dict) and "sources" in data:
        cast("dict[str, Any]", data).pop("path", None)


def _add_new_defaults(fields: dict[str, Any], kind: type[Spec]) -> None:
    """Write the values marked `NewDefault`, in every group, where nothing else was asked for."""
    for field in msgspec.structs.fields(kind):
        for mark in getattr(field.type, "__metadata__", ()):
            if isinstance(mark, NewDefault):
                fields.setdefault(field.name, mark.value)
        group = _group(field.type)
        inner = fields.get(field.name, {} if isinstance(field.default, Spec) else None)
        if group is not None and isinstance(inner, dict):
            _add_new_defaults(cast("dict[str, Any]", inner), group)
            if inner:
                fields[field.name] = inner


def _group(annotation: Any) -> type[Spec] | None:
    """The group that a field holds, perhaps beside null; None for fields of other types."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, Spec) else None
    if get_origin(annotation) is dict:  # `overrides`: what it leaves out is not a default
        return None
    found = (_group(part) for part in get_args(annotation))
    return next((group for group in found if group is not None), None)


def _preset(model: str) -> dict[str, Any]:
    short = model.rstrip("/").rpartition("/")[2].lower()
    for pattern, fields in PRESETS:
        if re.match(pattern, short):
            return fields
    return {}


def _chosen(request: Request, rate: float | None) -> dict[str, Any]:
    chosen: dict[str, Any] = {"data": {"path": request.data or default_data()}}
    if request.sources:
        if request.data is not None:
            hint = "name all files with --source"
            raise SpecError("both --data and --source are given", place="$.data", hint=hint)
        chosen["data"]["sources"] = [parse_source(text) for text in request.sources]
    if rate is not None:
        chosen["train"] = {"learning_rate": rate}
    if request.epochs is not None:
        chosen.setdefault("train", {})["num_train_epochs"] = request.epochs
    if request.benchmarks:
        chosen["eval"] = {"benchmarks": list(request.benchmarks)}
    return chosen


def parse_source(text: str) -> dict[str, Any]:
    """One source as an option gives it: `[NAME=]PATH`, `[NAME=]PATH:REPEAT` or `…PATH:WEIGHT%`."""
    found = _SOURCE.fullmatch(text)
    assert found is not None  # every text matches
    name, path, number, percent = found.groups()
    given = {"path": path, "name": name, ("weight" if percent else "repeat"): _number(number)}
    return {key: value for key, value in given.items() if value is not None}


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def parse_sweep(text: str) -> list[str]:
    """A setting for each value of `group.field=value,value`; the values are JSON or text.

    Raises:
        SpecError: it has another form.
    """
    path, equals, raw = text.partition("=")
    try:
        parsed: list[Any] = msgspec.json.decode(f"[{raw}]".encode(), type=list[Any])
        values = [msgspec.json.encode(value).decode() for value in parsed]
    except msgspec.DecodeError:
        values = [value.strip() for value in raw.split(",")]
    if not equals or not path.strip() or not all(values) or not values:
        raise SpecError(
            f"`--sweep {text}` is not of the form `group.field=value,value`",
            hint="for example --sweep train.seed=1,2,3",
        )
    return [f"{path.strip()}={value}" for value in values]


def _merge(into: dict[str, Any], fields: dict[str, Any]) -> None:
    for key, value in fields.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)  # pyright: ignore[reportUnknownArgumentType] - JSON
        else:
            into[key] = value


def apply(fields: dict[str, Any], setting: str) -> list[str]:
    """Apply one `train.seed=7`; the value is JSON where it parses as JSON, else text."""
    path, equals, raw = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(
            f"`--set {setting}` is not of the form `group.field=value`",
            hint="for example --set train.num_train_epochs=1",
        )
    here = fields
    for key in keys[:-1]:
        if not isinstance(here.get(key), dict):
            here[key] = {}
        here = here[key]
    here[keys[-1]] = _value(raw)
    return keys


def _value(raw: str) -> Any:
    try:
        return msgspec.json.decode(raw.encode())
    except msgspec.DecodeError:
        return raw


def decode(fields: dict[str, Any], settings: Sequence[str]) -> JobSpec:
    """Check the fields as a spec; a number set where text is meant (a revision) becomes text."""
    try:
        return _with_canonical_names(parsing.decode(msgspec.json.encode(fields)))
    except SpecError as error:
        parted = (setting.partition("=") for setting in settings)
        raw = {f"$.{path.strip()}": value for path, _, value in parted}
        if error.place not in raw or not error.message.startswith("Expected `str"):
            raise
        *groups, last = error.place.removeprefix("$.").split(".")
        here = fields
        for group in groups:
            here = here[group]
        if here[last] == raw[error.place]:
            raise
        here[last] = raw[error.place]
    return decode(fields, settings)


def _with_canonical_names(spec: JobSpec) -> JobSpec:
    canonical = with_canonical_names(spec)
    rules.check(canonical)
    return canonical


def _name(request: Request, fields: dict[str, Any], swept: Sequence[str], grid: bool) -> str:
    if request.name and not grid:
        return request.name
    train = fields.get("train", {})
    if train is None:
        varied = "base"
    else:
        varied = f"lr{spell_rate(train.get('learning_rate', TrainSpec().learning_rate))}"
    parts = [request.name] if request.name else []
    parts += [slug(fields["model"]["name"]), varied]
    parts += [_spell_setting(setting) for setting in swept if not setting.startswith(_RATE)]
    return "-".join(parts + ["smoke"] * request.smoke)


def _spell_setting(setting: str) -> str:
    """The part of a name that a swept field gives: `train.seed=7` → `seed7`."""
    path, _, value = setting.partition("=")
    return path.rpartition(".")[2].strip() + slug(value)


def slug(model: str) -> str:
    """The part of a name that a model gives: `Qwen/Qwen3-8B` → `qwen3-8b`."""
    short = model.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._]+", "-", short).strip("-._") or "model"


def spell_rate(rate: Any) -> str:
    """A learning rate as people write it: 1e-5, 2.5e-6, 0.001 → 1e-3."""
    if not isinstance(rate, int | float) or rate <= 0:
        return str(rate)
    mantissa, _, exponent = f"{rate:.6e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def missing_data(spec: JobSpec) -> str | None:
    """What to say where the data a spec names is not there yet: that refuses nothing here."""
    if spec.data is None:
        return None
    paths = (source.path for source in list_sources(spec.data))
    missing = next((path for path in paths if not Path(path).exists()), None)
    if missing is None:
        return None
    options = "--source" if spec.data.sources else "--data or $JOBSPEC_DATA"
    return f"data file `{missing}` does not exist yet; name it with {options}"
