"""docs/json.md against the structs that are printed: every field, its order and its type."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from clikit import REPOSITORY

from jobspec import report, results, workers

DOCUMENTED = [
    report.Status, report.JobRow, report.PastRow, workers.WorkerRow,
    results.Results, results.ResultRow, results.Score,
]  # fmt: skip
TEXT = (REPOSITORY / "docs" / "json.md").read_text()
TITLES = set(re.findall(r"^### (\w+)$", TEXT, re.MULTILINE))


def documented(title: str) -> dict[str, str]:
    """The fields of one table and their types."""
    section = TEXT.split(f"### {title}\n", 1)[1].split("\n##", 1)[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, re.MULTILINE))


def spelled(schema: dict[str, Any], *, many: bool = False) -> str:
    """A JSON Schema in the words of the document."""
    if "anyOf" in schema:
        return " or ".join(spelled(part, many=many) for part in schema["anyOf"])
    name = schema.get("type") or schema["$ref"].rpartition("/")[2]
    if name == "array":
        return f"array of {spelled(schema['items'], many=True)}"
    if name == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {spelled(schema['additionalProperties'], many=True)}"
    return name + "s" if many and name not in TITLES and name != "null" else name


@pytest.mark.parametrize("struct", DOCUMENTED, ids=lambda struct: struct.__name__)
def test_every_field_is_documented_as_it_is(struct: type[msgspec.Struct]) -> None:
    _, kinds = msgspec.json.schema_components([struct], ref_template="#/{name}")
    properties = kinds[struct.__name__]["properties"]
    expected = {name: spelled(schema) for name, schema in properties.items()}
    found = documented(struct.__name__)
    assert found == expected
    assert list(found) == list(expected), "in the order of the output"


def test_every_table_belongs_to_a_struct() -> None:
    assert {struct.__name__ for struct in DOCUMENTED} == TITLES
