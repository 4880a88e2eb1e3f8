"""Tool calls and reasoning in real templates: kept once, in any notation, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import CHATML
from tests.support.prepared import TOOL_TURNS, assistant, chat, encoded, refused, user
from tests.worker.data.test_families import trl_template
from worker.data.encode import DropKind, EncodedRow, RefusedRow, encode_row
from worker.rows.row import ChatRow, parse_row

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The weather "now".\nOr later/sooner.',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Größe & <name>"},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
            },
            "required": ["city"],
        },
    },
}
# Templates by their notation: JSON, XML and declarations of their own.
FAMILIES = {
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "gemma4_v5": "<turn|>",
    "gptoss": "<|return|>",
    "nemotron_3_nano": "<|im_end|>",
    "lfm2_2_5": "<|im_end|>",
    "glm4moe_training": "<|user|>",
}
ARGUMENTS = [
    {"city": "Paris"},
    {"city": "São Paulo"},
    {"city": "Fribourg/Freiburg"},
    {"city": "tab\there"},
    {"city": "Rome", "unit": "kelvin"},
    {"city": "Rome", "days": 3, "exact": True, "places": ["a", "b"], "at": {"hour": 7}},
    {},
]


def row(arguments: Any, **fields: Any) -> ChatRow:
    call = {"id": "call12345", "type": "function"}
    call["function"] = {"name": "weather", "arguments": arguments}
    messages = [
        user("How is it?"),
        assistant("", tool_calls=[call]),
        {"role": "tool", "tool_call_id": "call12345", "name": "weather", "content": "12 C"},
        assistant("<think>\nFine.\n</think>\n\nIt is 12 C."),
    ]
    line = json.dumps({"messages": messages, "tools": [WEATHER], **fields})
    return parse_row(line.encode(), 1, Path("f"))


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_arguments_given_as_text_are_trained_as_objects_are(
    name: str, arguments: dict[str, Any]
) -> None:
    encoder = chat(trl_template(name), eos=FAMILIES[name])
    as_object = encode_row(row(arguments), encoder)
    assert isinstance(as_object, EncodedRow), as_object
    for text in (json.dumps(arguments), json.dumps(json.dumps(arguments))):
        assert encode_row(row(text), encoder) == as_object
    slashes = json.dumps(arguments).replace("/", "\\/")
    assert encode_row(row(slashes), encoder) == as_object
    assert as_object.unrendered == ()
    assert "\\u" not in as_object.text and '{\\"' not in as_object.text


def test_a_template_that_writes_arguments_only_as_text_gets_text() -> None:
    """DeepSeek's templates join them to other text."""
    template = (
        "{{ tools | tojson }}{% for m in messages %}{{ m.role + ': ' + (m.content or '') }}"
        "{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    made = encoded(row('{"city": "S\\u00e3o"}'), chat(template))
    assert 'weather {"city": "São"}' in made.text


LOSSES = {
    "argument": ("{{ c.function.name }}(city=)", "the argument `city` of the tool call `weather`"),
    "call": ("", "the tool call `weather`"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_what_a_notation_leaves_out_is_still_a_loss(case: str) -> None:
    written, reason = LOSSES[case]
    template = (
        "{{ (tools or '') | tojson if tools else '' }}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
        "{% for c in m.tool_calls or [] %}" + written + "{% endfor %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    made = refused(row('{"city": "Rome"}'), chat(template.replace("weather", "w")))
    assert made.kind is DropKind.LOST_IN_RENDERING
    assert reason in made.reason


@pytest.mark.parametrize(
    "spelled",
    [
        "{{ f.name }}",
        "{{ f.name }}: {{ f.description }}",
        "{{ f.name }} {{ f.parameters | tojson }}",
    ],
)
def test_a_notation_of_tools_must_spell_every_description_and_parameter(spelled: str) -> None:
    tools = "{% for t in tools or [] %}{% set f = t.function %}" + spelled + "{% endfor %}"
    one = row({"city": "Rome"})
    plain = ChatRow(1, [one.messages[0], one.messages[-1]], one.tools)
    assert "tool 1 (`weather`)" in refused(plain, chat(tools + CHATML)).reason
    whole = tools.replace(spelled, "{{ f.name }} {{ f.description }} {{ f.parameters | tojson }}")
    encoded(plain, chat(whole + CHATML))


def test_a_tools_result_may_be_written_as_a_json_string() -> None:
    """Llama 3.1's template does so."""
    turns = [*TOOL_TURNS[:2], {"role": "tool", "content": '{"a": "ä\n"}'}, TOOL_TURNS[3]]
    quoting = CHATML.replace(
        "(m.content or '')", "(m.content | tojson if m.role == 'tool' else m.content)"
    )
    assert quoting != CHATML
    encoded(ChatRow(1, turns, None), chat(quoting))
    cut = quoting.replace("m.content | tojson", "(m.content | tojson)[:5]")
    assert "message 3 (`tool`)" in refused(ChatRow(1, turns, None), chat(cut)).reason


THOUGHT = "<think>\nWhy.\n</think>\n\nb"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "qwen3_8", "nemotron_3_nano", "gemma3"])
def test_reasoning_given_twice_is_rendered_once(name: str, key: str) -> None:
    encoder = chat(trl_template(name), eos="<end_of_turn>" if name == "gemma3" else "<|im_end|>")
    once = [
        encode_row(ChatRow(1, [user("a"), turn], None), encoder)
        for turn in (assistant(THOUGHT), assistant("b", **{key: "Why."}))
    ]
    made = encode_row(ChatRow(1, [user("a"), assistant(THOUGHT, **{key: "Why.\n"})], None), encoder)
    # Some templates keep the line ends around reasoning, some do not.
    trained = ["".join(one.text.split()) for one in once if isinstance(one, EncodedRow)]
    if trained:
        assert isinstance(made, EncodedRow)
        assert "".join(made.text.split()) in trained
    else:
        assert isinstance(made, RefusedRow)


def test_reasoning_in_two_fields_is_rendered_once() -> None:
    turn = assistant("b", reasoning_content="Why.", reasoning="Why.")
    made = encoded(ChatRow(1, [user("a"), turn], None), chat(trl_template("qwen3")))
    assert made.text.count("Why.") == 1


def test_two_different_reasonings_are_refused() -> None:
    turn = assistant(THOUGHT, reasoning_content="Other.")
    made = refused(ChatRow(1, [user("a"), turn], None), chat(trl_template("qwen3")))
    assert made.kind is DropKind.MALFORMED and "other reasoning" in made.reason
