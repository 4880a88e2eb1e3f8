"""What is wrong with a line that is not one JSON object of plain text: field and cause.

This is called only for lines that were found faulty, so it reads them in the slow, lenient way of
the standard library.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jobspec.errors import DataError, MalformedRow
from jobspec.storage.data_files import not_in_encoding

_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class _NotANumber:
    name: str


def explain(line: bytes, number: int, file: Path) -> DataError:
    """The error for a line that could not be decoded.

    What no JSON writer and no text editor produces (NaN, half a character, bytes of another
    encoding) says that the export is at fault: a DataError. Anything else is a MalformedRow.
    """
    place = f"row {number}"
    try:
        value = json.loads(line.decode(), parse_constant=_NotANumber)
    except UnicodeDecodeError as error:
        return not_in_encoding(error, file, place)
    except RecursionError:
        return MalformedRow("not valid JSON: nested too deeply", file=file, place=place)
    except ValueError as error:
        if b"\x00" in line:
            at = line.index(b"\x00") + 1
            hint = "was the file written in UTF-16, or after a crash? Write it again"
            message = f"not valid JSON: a NUL byte in column {at}"
            return DataError(message, file=file, place=place, hint=hint)
        hint = "each line holds one JSON object"
        return MalformedRow(f"not valid JSON: {error}", file=file, place=place, hint=hint)
    found = find_fault(value)
    if found is None:
        hint = "each line holds one JSON object"
        return MalformedRow("not a JSON object", file=file, place=place, hint=hint)
    return found_fault(found, number, file)


def found_fault(fault: tuple[str, str], number: int, file: Path) -> DataError:
    """The error for a field that holds what is not text or not a number."""
    field, cause = fault
    hint = "mend the program that wrote the file: other rows may have lost text in the same way"
    return DataError(f"`{field}`: {cause}", file=file, place=f"row {number}", hint=hint)


def find_fault(value: Any) -> tuple[str, str] | None:
    """The first value that is not text or not a JSON number, as (field, cause)."""
    return next(_faults(value, ""), None)


def find_repeated_key(line: bytes) -> tuple[str, str] | None:
    """A key that an object of this line gives twice, so that one value would be lost."""
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        repeated.extend(key for key in keys if keys.count(key) > 1)
        return dict(pairs)

    json.loads(line, object_pairs_hook=collect)
    return (repeated[0], "a key that is given twice") if repeated else None


def _faults(value: Any, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, _NotANumber):
        yield field or "$", f"{value.name} is not a JSON number"
    elif isinstance(value, float) and math.isinf(value):
        yield field or "$", "a number that is too large for a float"
    elif isinstance(value, str):
        cause = _text_fault(value)
        if cause is not None:
            yield field or "$", cause
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _faults(key, f"{field}.(key)".lstrip("."))
            yield from _faults(inner, f"{field}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[Any]", value)):
            yield from _faults(inner, f"{field}[{index}]")


def _text_fault(text: str) -> str | None:
    found = _SURROGATE.search(text)
    if found is not None:
        return f"a lone surrogate \\u{ord(found.group()):04x}, which is half a character"
    return "a NUL character (\\u0000)" if "\x00" in text else None
