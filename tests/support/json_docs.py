"""Compare printed JSON with the lists of fields in docs/json.md.

`### Name` begins the list of an object inside others, ``### `command` `` that of a command's
output. Options in such a title mean: this is printed when the options are given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
# They print a table's object as it is.
OF_A_STRUCT = {
    "status": "Status", "show": "JobReport", "results": "Results", "demo": "Results",
    "run": "Results",
    "doctor": "Diagnosis", "verify": "VerifiedBundle",
}  # fmt: skip
_SECTIONS = dict(re.findall(r"^### (.+)\n((?:(?!##).*\n)*)", TEXT, re.MULTILINE))


def _fields(title: str) -> dict[str, str]:
    """A list's fields in its order, and their types in the document's words.

    The page says once that every printed object begins with `schema`. A list may include the
    fields of another.
    """
    printed = title.startswith("`") or title in {"Refusals", *OF_A_STRUCT.values()}
    fields = {"schema": "integer"} if printed else {}
    pattern = r"^- (?:`(\w+)` \(([^)]+)\)|all fields of (\w+))(?:: .+)?$"
    for name, kind, other in re.findall(pattern, _SECTIONS[title], re.MULTILINE):
        fields |= _fields(other) if other else {name: kind}
    return fields


TABLES = {title: _fields(title) for title in _SECTIONS}
# The type of a field that is left out where it does not apply ends so.
ABSENT = " or absent"
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "object": (dict,), "null": (type(None),),
}  # fmt: skip


def titles_for(args: Sequence[str]) -> list[str]:
    """The tables of what a command line may print: its command's, where its options are given."""
    found = [OF_A_STRUCT[args[0]]] if args[0] in OF_A_STRUCT else []
    for title in TABLES:
        for words in (spelled.split() for spelled in re.findall(r"`([^`]+)`", title)):
            subcommand = [word for word in words[1:] if not word.startswith("-")]
            begins = list(args[: 1 + len(subcommand)]) == [words[0], *subcommand]
            if begins and all(word in args for word in words[1:]):
                found.append(title)
    return found


def undocumented(args: Sequence[str], printed: Any) -> str | None:
    """What of an output the document does not say; None where one of the tables fits."""
    wrong = [misfit(printed, title) for title in ["Refusals", *titles_for(args)]]
    return None if None in wrong else f"{' '.join(args[:2])}: {'; '.join(filter(None, wrong))}"


def misfit(value: Any, kind: str, place: str = "$") -> str | None:
    """Where a value is not what a type in the document's words says; None where it is."""
    if kind == "any":
        return None
    if kind in TABLES:
        return _misfit_in_table(value, kind, place)
    for container, parts in (("array", list), ("object", dict)):
        prefix = f"{container} of "
        if kind.startswith(prefix) and isinstance(value, parts):
            every = enumerate(value) if isinstance(value, list) else value.items()
            inner = (misfit(each, kind[len(prefix) :], f"{place}.{key}") for key, each in every)
            return next(filter(None, inner), None)
    if " or " in kind:
        wrong = [misfit(value, each, place) for each in kind.split(" or ")]
        return None if None in wrong else wrong[0]
    wanted = _KINDS.get(kind) or _KINDS.get(kind.removesuffix("s"), ())
    fits = isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))
    return None if fits else f"{place} is {value!r:.60}, not {kind}"


def _misfit_in_table(value: Any, title: str, place: str) -> str | None:
    if not isinstance(value, dict):
        return f"{place} is {value!r:.60}, not {title}"
    table = TABLES[title]
    required = {name for name, kind in table.items() if not kind.endswith(ABSENT)}
    apart = sorted((value.keys() - table.keys()) | (required - value.keys()))
    if apart:
        return f"{place}: {', '.join(apart)} only in one of output and table {title}"
    inner = (
        misfit(value[name], kind.removesuffix(ABSENT), f"{place}.{name}")
        for name, kind in table.items()
        if name in value
    )
    return next(filter(None, inner), None)
