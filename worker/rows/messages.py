"""Brings the messages of a row into the one form that chat templates render; names what is wrong.

Arguments of tool calls become objects: OpenAI's API gives them as JSON text, which a template would
encode a second time. The older `function_call` and `functions` become `tool_calls` and `tools`.
"""

from __future__ import annotations

import json
from typing import Any

from jobspec.storage import json_faults

Message = dict[str, Any]

_HINT = "a message is an object with `role` and `content`"
_CALL_HINT = (
    'a call is {"type": "function", "function": {"name": …, "arguments": {…}}}, '
    "`arguments` an object or its JSON text"
)


class Malformed(Exception):  # noqa: N818 - an answer, not a failure of the program
    """What is wrong with a row, and a hint."""

    def __init__(self, message: str, hint: str = _HINT) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def normalize(messages: list[Message]) -> None:
    """Check every message and bring its tool calls into one form, in place. Raises Malformed."""
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        if not isinstance(message.get("role"), str):
            raise Malformed(f"`{at}.role` is not a text")
        if not _is_content(message.get("content")):
            raise Malformed(f"`{at}.content` is neither a text, nor null, nor a list of parts")
        if "function_call" in message:
            _replace_function_call(message, at)
        if message["role"] == "function":
            message["role"] = "tool"
        calls = message.get("tool_calls")
        if calls is not None:
            _normalize_calls(calls, f"{at}.tool_calls")
    _check_ends(messages)


def tools_of(tools: Any, functions: Any) -> list[Any] | None:
    """A row's tools: `tools`, or the older `functions`; as a list or as JSON text.

    Raises:
        Malformed: they are something else, or both are given.
    """
    tools, functions = _parsed(tools, "tools"), _parsed(functions, "functions")
    if tools and functions:
        raise Malformed("both `tools` and `functions` are given", "keep `tools`")
    if functions:
        tools = [{"type": "function", "function": function} for function in functions]
    for index, tool in enumerate(tools):
        if not isinstance(tool.get("function", tool), dict):
            hint = 'a tool is {"type": "function", "function": {"name": …, …}}'
            raise Malformed(f"`tools[{index}].function` is not an object", hint)
    return tools or None


def _parsed(value: Any, field: str) -> list[Any]:
    if isinstance(value, str) and value.strip():
        value = _parse(value, field)
    hint = "it describes the tools, as JSON"
    found: Any = [] if isinstance(value, str) and not value.strip() else value or []
    if not isinstance(found, list):
        raise Malformed(f"`{field}` is not a list of objects", hint)
    found = [_parse(one, field) if isinstance(one, str) else one for one in found]
    if not _is_list_of_objects(found):
        raise Malformed(f"`{field}` is not a list of objects", hint)
    return found


def _normalize_calls(calls: Any, at: str) -> None:
    if not _is_list_of_objects(calls):
        raise Malformed(f"`{at}` is not a list of objects", _CALL_HINT)
    for index, call in enumerate(calls):
        function = call if call.get("function") is None else call["function"]
        inside = f"{at}[{index}]" if function is call else f"{at}[{index}].function"
        if not isinstance(function, dict):
            raise Malformed(f"`{inside}` is not an object", _CALL_HINT)
        if not isinstance(function.get("name"), str) or not function["name"].strip():
            raise Malformed(f"`{inside}.name` is not a text", _CALL_HINT)
        function["arguments"] = _arguments(function.get("arguments"), f"{inside}.arguments")


def _arguments(value: Any, at: str) -> Message:
    for _ in range(2):  # some exports encode the text twice
        if isinstance(value, str):
            value = _parse(value, at) if value.strip() else {}
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise Malformed(f"`{at}` is not an object, nor the JSON text of one", _CALL_HINT)
    return value


def _parse(text: str, at: str) -> Any:
    """The value of a JSON text inside a row. Raises Malformed."""
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"`{at}` is not valid JSON: {error}", _CALL_HINT) from error
    fault = json_faults.find_fault(value)
    if fault is not None:
        raise Malformed(f"`{at}`: {fault[1]}", _CALL_HINT)
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> Message:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _replace_function_call(message: Message, at: str) -> None:
    call = message.pop("function_call")
    if not call:
        return
    if not isinstance(call, dict):
        raise Malformed(f"`{at}.function_call` is not an object", _CALL_HINT)
    if message.get("tool_calls"):
        raise Malformed(f"`{at}` has both `tool_calls` and `function_call`", "keep `tool_calls`")
    message["tool_calls"] = [{"type": "function", "function": call}]


def _check_ends(messages: list[Message]) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        last = (
            f"the last message is of role `{messages[-1]['role']}`" if messages else "no messages"
        )
        hint = "each row ends with the turn to be learned"
        raise Malformed(f"no final assistant turn: {last}", hint)
    if len(messages) == 1:
        raise Malformed("no prompt before the assistant turn", "put what it answers before it")
    final = messages[-1]
    if not (carries_text(final.get("content")) or _has_calls(final)):
        raise Malformed("the final assistant turn is empty", "leave such rows out")


def _has_calls(message: Message) -> bool:
    return bool(message.get("tool_calls")) or carries_text(message.get("function_calls"))


def carries_text(value: Any) -> bool:
    """Whether a value is a text that is not blank, or holds one."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, dict):
        return any(carries_text(inner) for key, inner in value.items() if key != "type")
    return isinstance(value, list) and any(map(carries_text, value))


def _is_content(content: Any) -> bool:
    return content is None or isinstance(content, str) or _is_list_of_objects(content)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)
