"""Reads specs from JSON. Errors name the file, the JSON path and what was probably meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from jobspec.errors import JobspecError, SpecError, raise_all
from jobspec.spec import rules
from jobspec.spec.schema import JobSpec, Spec

_MOST_ERRORS = 50
# Values of required fields that are missing or wrong, so that the other fields can be checked.
_STAND_INS: dict[str, Any] = {"name": "x", "model": {"name": "x"}}
_PART = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")  # of a JSON path: a name or an index
_FEW = {"boolean": ("true", "false"), "null": ("null",)}


def decode(data: bytes, *, file: str | Path | None = None) -> JobSpec:
    """Read a spec and check its fields and rules.

    Raises:
        SpecError: something is wrong; it names the file and the JSON path, and has all errors.
    """
    spec, errors = examine(data, file=file)
    raise_all(errors)
    assert spec is not None, "a spec without errors was read"
    return spec


def examine(
    data: bytes, *, file: str | Path | None = None
) -> tuple[JobSpec | None, list[JobspecError]]:
    """Read a spec and find all that is wrong with it.

    Returns:
        The spec, with defaults for fields that are wrong; None if it can't be read. And the errors.
    """
    try:
        fields: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "write specs with `jobspec new`"
        return None, [SpecError(f"not valid JSON: {error}", file=file, hint=hint)]
    errors: list[JobspecError] = []
    removed: list[str] = []
    for _ in range(_MOST_ERRORS):
        try:
            spec = msgspec.json.decode(msgspec.json.encode(fields), type=JobSpec)
        except msgspec.ValidationError as error:
            found = _spec_error(str(error), data, file)
            repaired = _repair(fields, str(error), found.place or "$")
            if repaired is None or repaired not in removed:
                errors.append(found)
            if repaired is None:
                return None, errors
            removed.append(repaired)
        else:
            # A rule may be broken only because a field of its group was left out.
            groups = {_group(place) for place in removed}
            broken = rules.broken(spec, file=file)
            errors += [each for each in broken if not groups or _group(each.place) not in groups]
            return spec, errors
    return None, errors


def _repair(fields: Any, message: str, place: str) -> str | None:
    """Leave out the field that an error is about, or fill in one that is missing.

    An object without a field that can't be filled in is left out as a whole.

    Returns:
        The field's JSON path; None if that is not possible.
    """
    unknown = re.search(r"unknown field `([^`]+)`", message)
    missing = re.search(r"missing required field `([^`]+)`", message)
    named = unknown or missing
    keys = [key for key in re.findall(r"\.([^.\[]+)|\[\d+\]", place) if key]
    keys += [named.group(1)] if named is not None else []
    if "[" in place and (named is not None or not keys):
        return None  # in an element of a list
    path = keys or [""]
    if missing is not None and path[-1] not in _STAND_INS:
        path = path[:-1] or [""]
    *above, last = path
    try:
        for key in above:
            fields = fields[key]
        if missing is not None and path == keys:
            fields[last] = _STAND_INS[last]
        else:
            del fields[last]
    except (KeyError, TypeError):
        return None
    return "$." + ".".join(keys)


def _group(place: str | None) -> str:
    return re.split(r"[.\[]", (place or "$").removeprefix("$."))[0]


def load(path: str | Path) -> JobSpec:
    """Read and check a spec file. Raises SpecError, naming the file, with all errors."""
    return decode(read_file(path), file=path)


def read_file(path: str | Path) -> bytes:
    """The bytes of a spec file. Raises SpecError, naming the file."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        hint = "is the path right? `jobspec new` writes specs and prints where"
        raise SpecError(f"can't be read: {error.strerror}", file=path, hint=hint) from error


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a spec, for editors and other languages."""
    return msgspec.json.schema(JobSpec)


def _spec_error(message: str, data: bytes, file: str | Path | None) -> SpecError:
    what, _, place = message.partition(" - at `")
    place = place.rstrip("`") or "$"
    hint = "`jobspec schema` prints every field with its limits"
    unknown = re.search(r"unknown field `([^`]+)`", what)
    if unknown is not None:
        import difflib  # here, since only mistakes need it

        near = difflib.get_close_matches(unknown.group(1), _all_fields(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else hint
    elif "missing required" not in what:
        what += f", got `{_value_at(data, place)}`"
        if choices := _choices(place):
            hint = f"choose one of {', '.join(f'`{choice}`' for choice in choices)}"
    return SpecError(what, file=file, place=place, hint=hint)


def _value_at(data: bytes, place: str) -> str:
    """The JSON text found at a path such as `$.eval.benchmarks[0]`; shortened for a message."""
    value: Any = msgspec.json.decode(data)
    for key, index in _PART.findall(place):
        try:
            value = value[key or int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            break
    # The value may be a secret, so long ones are shortened.
    text = re.sub(
        r"[\w-]{30,}", lambda long: f"{long[0][:4]}…", msgspec.json.encode(value).decode()
    )
    return text if len(text) <= 60 else text[:57] + "..."


def _choices(place: str) -> list[str]:
    """The values that a place such as `$.tracking.sinks[0]` may have, if all are listed."""
    schema = json_schema()
    nodes: list[dict[str, Any]] = _alternatives(schema, schema)
    for key, _ in _PART.findall(place):
        below = (
            node.get("properties", {}).get(key) if key else node.get("items") for node in nodes
        )
        nodes = [found for node in below if node for found in _alternatives(node, schema)]
    if not all(node.keys() & {"enum"} or node.get("type") in _FEW for node in nodes):
        return []
    values = (node.get("enum") or _FEW[node["type"]] for node in nodes)
    return [str(value) for each in values for value in each]


def _alternatives(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """A node of the JSON Schema, or what it refers to and allows instead."""
    if "$ref" in node:
        return _alternatives(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in node:
        return [found for each in node["anyOf"] for found in _alternatives(each, schema)]
    return [node]


def _all_fields() -> list[str]:
    kinds = Spec.__subclasses__()
    return sorted({field for kind in kinds for field in kind.__struct_fields__})
