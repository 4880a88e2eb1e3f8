"""worker.rows: what a line of a data file says, and why it may be no row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import DataError, MalformedRow
from tests.support.prepared import TOOLS, assistant, user
from worker.rows.row import ChatRow, RowParser, parse_row

FILE = Path("rows.jsonl")


def parsed(*messages: dict[str, Any], ignored: tuple[str, ...] = (), **fields: Any) -> ChatRow:
    line = json.dumps({"messages": list(messages), **fields}).encode()
    return RowParser(FILE, ignored=frozenset(ignored)).parse(line, 7)


def malformed(*messages: dict[str, Any], **fields: Any) -> str:
    with pytest.raises(MalformedRow) as caught:
        parsed(*messages, **fields)
    assert (caught.value.file, caught.value.place) == ("rows.jsonl", "row 7")
    assert caught.value.hint
    return caught.value.message


CHAT = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "b"}]%s}'
FAULTS = {
    "NUL as an escape": (CHAT % ("a\\u0000", ""), "`messages[0].content`: a NUL character"),
    "NUL in another field": (CHAT % ("", ', "x": {"y": ["\\u0000"]}'), "`x.y[0]`: a NUL"),
    "NUL in a key": (CHAT % ("", ', "\\u0000": 1'), "(key)`: a NUL"),
    "NUL as a byte": (CHAT % ("a\x00", ""), "a NUL byte in column"),
    "NaN": (CHAT % ("", ', "score": NaN'), "`score`: NaN is not a JSON number"),
    "Infinity": (CHAT % ("", ', "s": [1, Infinity]'), "`s[1]`: Infinity is not a JSON number"),
    "-Infinity": (CHAT % ("", ', "s": {"t": -Infinity}'), "`s.t`: -Infinity is not a JSON number"),
    "too large": (CHAT % ("", ', "s": 1e999'), "`s`: a number that is too large"),
    "high surrogate": (CHAT % ("\\ud83d", ""), "`messages[0].content`: a lone surrogate \\ud83d"),
    "low surrogate": (CHAT % ("a\\ude00b", ""), "a lone surrogate \\ude00"),
    "swapped surrogates": (CHAT % ("\\ude00\\ud83d", ""), "a lone surrogate \\ude00"),
    "surrogate in a key": (CHAT % ("", ', "\\ud83d": 1'), "a lone surrogate"),
    "key given twice": (CHAT % ("", ', "messages": []'), "`messages`: a key that is given twice"),
    "content given twice": (CHAT % ('", "content": "a', ""), "`content`: a key that is given"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_no_valid_export_holds_is_an_error_with_field_and_cause(case: str) -> None:
    line, cause = FAULTS[case]
    with pytest.raises(DataError) as caught:
        parse_row(line.encode(), 3, FILE)
    assert not isinstance(caught.value, MalformedRow)
    assert cause in caught.value.message
    assert caught.value.place == "row 3" and caught.value.hint


@pytest.mark.parametrize("data", [b"caf\xe9", b"\xed\xa0\xbd", b"\xff"])
def test_bytes_of_another_encoding_are_named(data: bytes) -> None:
    with pytest.raises(DataError, match=r"byte 0x\w\w at position \d+ is not UTF-8") as caught:
        parse_row(CHAT.encode() % (data, b""), 3, FILE)
    assert not isinstance(caught.value, MalformedRow)
    assert "iconv" in str(caught.value.hint)


def test_escapes_that_stand_for_characters_are_no_fault() -> None:
    row = parse_row((CHAT % ("\\ud83d\\ude00 \\\\u0000 \\/ \\\\ud83d", "")).encode(), 1, FILE)
    assert row.messages[0]["content"] == "😀 \\u0000 / \\ud83d"
    quotes = 'it says "content" and "role", "messages"'
    assert parsed(user(quotes), assistant(quotes)).messages[0]["content"] == quotes


def call(arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"function": {"name": "f", "arguments": arguments}, "type": "function", **fields}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        (json.dumps(json.dumps({"a": "ã"})), {"a": "ã"}),
        ('{"a": "S\\u00e3o \\/ \\"x\\""}', {"a": 'São / "x"'}),
        (' {"a": {"b": ["{}"]}}\n', {"a": {"b": ["{}"]}}),
        ("", {}),
        ("{}", {}),
        (None, {}),
    ],
)
def test_arguments_given_as_text_are_parsed(given: Any, read: dict[str, Any]) -> None:
    row = parsed(user("a"), assistant(None, tool_calls=[call(given)]))
    assert row.messages[1]["tool_calls"][0]["function"]["arguments"] == read
    flat = parsed(user("a"), assistant("", tool_calls=[{"name": "f", "arguments": given}]))
    assert flat.messages[1]["tool_calls"][0]["arguments"] == read


@pytest.mark.parametrize(
    "given",
    ["{a: 1}", "[1]", '"x"', "3", [1], 3, '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": "\\ud83d"}'],
)
def test_arguments_that_are_no_object_make_a_malformed_row(given: Any) -> None:
    said = malformed(user("a"), assistant("", tool_calls=[call(given)]))
    assert "`messages[1].tool_calls[0].function.arguments`" in said


@pytest.mark.parametrize("function", ["f", '{"name": "f"}', ["f"], 3, {"arguments": "{}"}])
def test_a_function_that_is_no_object_with_a_name_makes_a_malformed_row(function: Any) -> None:
    said = malformed(user("a"), assistant("", tool_calls=[{"function": function}]))
    assert "`messages[1].tool_calls[0]" in said


def test_legacy_function_calls_become_tool_calls() -> None:
    row = parsed(
        user("a"),
        assistant(None, function_call={"name": "f", "arguments": '{"a": 1}'}),
        {"role": "function", "name": "f", "content": "1"},
        assistant("b", function_call=None),
        functions=[tool["function"] for tool in TOOLS],
    )
    assert row.tools == TOOLS
    assert row.messages[1] == assistant(None, tool_calls=[call({"a": 1})])
    assert row.messages[2]["role"] == "tool"
    assert row.messages[3] == assistant("b")
    assert row.text_fields == ()


def test_legacy_and_present_forms_together_make_a_malformed_row() -> None:
    both = assistant("", function_call={"name": "f"}, tool_calls=[call({})])
    assert "both `tool_calls` and `function_call`" in malformed(user("a"), both)
    fields = {"tools": TOOLS, "functions": [{"name": "f"}]}
    assert "both `tools` and `functions`" in malformed(user("a"), assistant("b"), **fields)
    assert "function_call` is not" in malformed(user("a"), assistant("", function_call="f"))


@pytest.mark.parametrize(
    ("final", "row", "why"),
    [
        ({"weight": 0}, {}, "the final turn has `weight` 0"),
        ({"weight": 0.0}, {}, "the final turn has `weight` 0"),
        ({"train": False}, {}, "the final turn has `train` false"),
        ({"trainable": False}, {}, "the final turn has `trainable` false"),
        ({"loss": False}, {}, "the final turn has `loss` false"),
        ({}, {"weight": 0}, "the row has `weight` 0"),
        ({}, {"train": False}, "the row has `train` false"),
        ({"weight": 1, "train": True}, {"weight": 0.5}, None),
        ({"weight": None}, {}, None),
    ],
)
def test_turns_marked_as_not_trained(
    final: dict[str, Any], row: dict[str, Any], why: str | None
) -> None:
    earlier = assistant("b", weight=0, train=False)
    made = parsed(user("a"), earlier, user("c"), assistant("d", **final), **row)
    assert made.not_trained == why


def test_a_weight_that_cannot_be_respected_makes_a_malformed_row() -> None:
    assert "only 0 and 1" in malformed(user("a"), assistant("b", weight=0.5))


@pytest.mark.parametrize(
    "content", ["", "  ", "\n\t", "\u3000", [], [{"type": "text", "text": ""}]]
)
def test_a_final_turn_of_blanks_is_empty(content: Any) -> None:
    assert "turn is empty" in malformed(user("a"), assistant(content))
    parsed(user("a"), assistant(content, tool_calls=[call({})]))


def fields_of(*messages: dict[str, Any], **fields: Any) -> list[str]:
    return sorted(field.name for field in parsed(*messages, **fields).text_fields)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"system": "be kind"}, ["system"]),
        ({"note": {"by": ["me"]}}, ["note"]),
        ({"thinking": ["why"]}, ["thinking"]),
        ({"score": 1.5, "ok": True, "none": None, "blank": " ", "empty": [{}]}, []),
        ({"id": "x", "source": "web", "licence": "CC0", "created_at": "2026"}, []),
        ({"prompt": "a"}, []),
        ({"prompt": "another"}, ["prompt"]),
        ({"conversations": [{"from": "human", "value": "x"}]}, ["conversations"]),
    ],
)
def test_text_beside_the_messages_is_found(fields: dict[str, Any], names: list[str]) -> None:
    assert fields_of(user("a"), assistant("b"), **fields) == names


@pytest.mark.parametrize(
    ("final", "names"),
    [
        ({"thinking_content": "why"}, ["thinking_content"]),
        ({"reasoning_content": ["why"]}, ["reasoning_content"]),
        ({"reasoning_content": [{"type": "text", "text": "why"}]}, ["reasoning_content"]),
        ({"reasoning_content": "why", "reasoning": None}, []),
        ({"refusal": None, "annotations": [], "index": 3}, []),
        ({"name": "Bob"}, ["name"]),
        ({"tool_calls": [call({}, id="c1", index=0)]}, []),
        ({"tool_calls": [call({}, output="12 C")]}, ["output"]),
    ],
)
def test_text_beside_the_content_is_found(final: dict[str, Any], names: list[str]) -> None:
    assert fields_of(user("a"), assistant("b", **final)) == names


def test_text_inside_parts_and_of_other_roles_is_found() -> None:
    image = {"type": "image_url", "image_url": {"url": "x.png"}}
    asked = {"role": "user", "content": [{"type": "text", "text": "a"}, image], "reasoning": "why"}
    assert fields_of(asked, assistant("b")) == ["image_url", "reasoning"]
    result = {"role": "tool", "name": "f", "tool_call_id": "c1", "content": "1"}
    assert fields_of(user("a"), result, assistant("b")) == []


def test_ignored_fields_are_removed_from_rows_and_messages() -> None:
    turn = assistant("b", thinking_content="why", weight=0)
    listed = ("system", "thinking_content", "weight")
    row = parsed(user("a"), turn, system="s", ignored=listed, note="n")
    assert row.messages[1] == assistant("b")
    assert [field.name for field in row.text_fields] == ["note"]
    assert row.not_trained is None
