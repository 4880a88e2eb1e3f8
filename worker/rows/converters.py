"""Named converters from other row formats to `messages`. The row stays unverified: parse_row does.

A converter takes the fields that it understands out of a row and puts `messages` (and `tools`) in.
Whatever it leaves is treated as any other field beside `messages`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


class NotConvertible(ValueError):  # noqa: N818 - reads as what happened
    """The row lacks a field of its format, or a field has the wrong type."""


_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot", "bing", "bard"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "tool_response", "function_response"), "tool"),
}
_CALLS = ("function_call", "tool_call")


def detect(row: Row) -> str:
    """The name of the format that a row's fields show; `messages` if they show none."""
    if "messages" in row:
        return "messages"
    if isinstance(row.get("conversations"), list):
        return "sharegpt"
    if "prompt" in row and ("completion" in row or "response" in row):
        return "prompt_completion"
    if "instruction" in row and "output" in row:
        return "alpaca"
    return "messages"


def convert(row: Row, name: str) -> tuple[Row, str]:
    """A row of the named format (or of the one it shows, for `auto`) with `messages`, and the name.

    Raises:
        NotConvertible: the row is not of that format.
    """
    found = detect(row) if name == "auto" else name
    return (row if found == "messages" else _CONVERTERS[found](dict(row))), found


def _from_sharegpt(row: Row) -> Row:
    turns = row.pop("conversations", None)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise NotConvertible("`conversations` is not a list of objects")
    messages = _system_message(row)
    return {"messages": messages + [_turn(turn, i) for i, turn in enumerate(turns)], **row}


def _turn(turn: Row, index: int) -> Row:
    if "from" not in turn and "role" in turn:
        return turn
    turn = dict(turn)
    speaker, value = turn.pop("from", None), turn.pop("value", None)
    at = f"`conversations[{index}]"
    if not isinstance(value, str):
        raise NotConvertible(f"{at}.value` is not a text")
    if speaker in _CALLS:
        return {"role": "assistant", "content": "", "tool_calls": _calls(value, at), **turn}
    role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise NotConvertible(f"{at}.from` is `{speaker}`, which is no known speaker")
    return {"role": role, "content": value, **turn}


def _calls(value: str, at: str) -> list[Row]:
    try:
        called = json.loads(value)
    except ValueError as error:
        raise NotConvertible(f"{at}.value` is no JSON, but a call of a tool is") from error
    calls = called if isinstance(called, list) else [called]
    return [{"type": "function", "function": call} for call in calls]


def _from_prompt_completion(row: Row) -> Row:
    answer = "completion" if "completion" in row else "response"
    asked, answered = row.pop("prompt", None), row.pop(answer, None)
    messages = _system_message(row)
    for name, said, role in (("prompt", asked, "user"), (answer, answered, "assistant")):
        if isinstance(said, str):
            messages.append({"role": role, "content": said})
        elif isinstance(said, list):
            messages += said
        else:
            raise NotConvertible(f"`{name}` is neither a text nor a list of messages")
    return {"messages": messages, **row}


def _from_alpaca(row: Row) -> Row:
    said = {name: row.pop(name, None) for name in ("instruction", "input", "output")}
    for name, text in said.items():
        if not isinstance(text, str) and not (name == "input" and text is None):
            raise NotConvertible(f"`{name}` is not a text")
    messages = _system_message(row)
    for pair in row.pop("history", None) or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise NotConvertible("`history` is not a list of [instruction, output] pairs")
        messages += _exchange(*pair)
    asked = "\n\n".join(part for part in (said["instruction"], said["input"]) if part)
    return {"messages": messages + _exchange(asked, said["output"]), **row}


def _exchange(asked: Any, answered: Any) -> list[Row]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _system_message(row: Row) -> list[Row]:
    """The row's `system` text as the first message, as these formats mean it."""
    if not isinstance(row.get("system"), str):
        return []
    text = row.pop("system")
    return [{"role": "system", "content": text}] if text.strip() else []


_CONVERTERS: dict[str, Callable[[Row], Row]] = {
    "sharegpt": _from_sharegpt,
    "prompt_completion": _from_prompt_completion,
    "alpaca": _from_alpaca,
}
