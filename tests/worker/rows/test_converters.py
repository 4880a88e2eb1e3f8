"""worker.rows.converters: other row formats become `messages`, by their fields or by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import MalformedRow
from tests.support.prepared import TOOLS, assistant, user
from worker.rows.row import ChatRow, RowParser

SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def parse(row: dict[str, Any], name: str = "auto") -> ChatRow:
    return RowParser(Path("f"), name).parse(json.dumps(row).encode(), 1)


def said(*turns: str) -> list[dict[str, Any]]:
    """ShareGPT's turns, each given as `speaker: text`."""
    pairs = (turn.split(": ", 1) for turn in turns)
    return [{"from": speaker, "value": text} for speaker, text in pairs]


ROWS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "sharegpt": (
        "sharegpt",
        {"conversations": said("human: a", "gpt: b", "user: c", "bot: d")},
        [user("a"), assistant("b"), user("c"), assistant("d")],
    ),
    "sharegpt with system": (
        "sharegpt",
        {"system": "Be brief.", "conversations": said("human: a", "gpt: b")},
        [SYSTEM, user("a"), assistant("b")],
    ),
    "sharegpt with roles": (
        "sharegpt",
        {"conversations": [SYSTEM, user("a"), assistant("b")]},
        [SYSTEM, user("a"), assistant("b")],
    ),
    "sharegpt with tools": (
        "sharegpt",
        {
            "tools": json.dumps(TOOLS),
            "conversations": [
                *said("human: a", 'function_call: {"name": "add", "arguments": "{\\"a\\": 1}"}'),
                *said("observation: 1"),
                {"from": "gpt", "value": "b", "weight": 1},
            ],
        },
        [
            user("a"),
            assistant("", tool_calls=[CALL]),
            {"role": "tool", "content": "1"},
            assistant("b", weight=1),
        ],
    ),
    "prompt and completion": (
        "prompt_completion",
        {"prompt": "a", "completion": "b"},
        [user("a"), assistant("b")],
    ),
    "prompt and response": (
        "prompt_completion",
        {"prompt": "a", "response": "b", "system": "Be brief."},
        [SYSTEM, user("a"), assistant("b")],
    ),
    "prompt and completion as messages": (
        "prompt_completion",
        {"prompt": [SYSTEM, user("a")], "completion": [assistant("b")]},
        [SYSTEM, user("a"), assistant("b")],
    ),
    "alpaca": (
        "alpaca",
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        [user("Add.\n\n1 and 2"), assistant("3")],
    ),
    "alpaca without input": (
        "alpaca",
        {"instruction": "Add 1 and 2.", "input": "", "output": "3", "system": "Be brief."},
        [SYSTEM, user("Add 1 and 2."), assistant("3")],
    ),
    "alpaca with history": (
        "alpaca",
        {"instruction": "c", "output": "d", "history": [["a", "b"]]},
        [user("a"), assistant("b"), user("c"), assistant("d")],
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_is_converted_by_its_fields_and_by_name(case: str) -> None:
    name, row, messages = ROWS[case]
    for given in ("auto", name):
        made = parse(row, given)
        assert (made.messages, made.format, made.text_fields) == (messages, name, ())
    assert parse(row).tools == (TOOLS if "tools" in row else None)
    with pytest.raises(MalformedRow):
        parse(row, "messages")


MALFORMED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown speaker": ("auto", {"conversations": said("narrator: a")}, "`narrator`"),
    "value a number": ("auto", {"conversations": [{"from": "gpt", "value": 3}]}, "[0].value`"),
    "call no JSON": ("auto", {"conversations": said("function_call: add(1)")}, "no JSON"),
    "ends with the user": (
        "auto",
        {"conversations": said("gpt: a", "human: b")},
        "no final assistant turn",
    ),
    "other format": ("alpaca", {"conversations": said("human: a")}, "`instruction`"),
    "completion a number": ("auto", {"prompt": "a", "completion": 3}, "`completion`"),
    "output null": ("auto", {"instruction": "a", "output": None}, "`output`"),
    "bad history": ("auto", {"instruction": "a", "output": "b", "history": ["c"]}, "`history`"),
    "messages of texts": ("auto", {"prompt": ["a"], "completion": "b"}, "$.messages"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_row_that_lacks_its_formats_fields_is_malformed(case: str) -> None:
    name, row, reason = MALFORMED[case]
    with pytest.raises(MalformedRow) as caught:
        parse(row, name)
    assert reason in caught.value.message and caught.value.hint


def test_fields_that_a_converter_does_not_use_are_text_that_would_be_lost() -> None:
    row = {"instruction": "a", "output": "b", "text": "Below is an instruction: a"}
    assert [field.name for field in parse(row).text_fields] == ["text"]
    both = {"messages": [user("a"), assistant("b")], "instruction": "c", "output": "d"}
    assert sorted(field.name for field in parse(both).text_fields) == ["instruction", "output"]
