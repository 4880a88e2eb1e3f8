"""What of a row is trained, on a tokenizer made here; and lines that are no rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspec.errors import DataError
from tests.support.models import BARE, CHATML, OPENING
from tests.support.prepared import TOOLS, assistant, chat, encoded, row, supervised, user
from worker.data.encode import RefusedRow, encode_row
from worker.rows.row import parse_row
from worker.thinking import ThinkTags


def test_context_is_not_trained_and_the_newline_after_the_end_is_not_there() -> None:
    format_ = chat()
    made = encoded(row(user("hi"), assistant("one"), user("more"), assistant("two")), format_)
    assert supervised(made, format_) == "two<|im_end|>"
    assert format_.codec.spell(made.input_ids) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>"
    )


@pytest.mark.parametrize(("open_", "close"), [("◁think▷", "◁/think▷"), ("𝕋", "/𝕋")])
def test_a_tag_may_begin_with_a_character_of_several_tokens(open_: str, close: str) -> None:
    template = OPENING.replace("<think>", open_).replace("</think>", close)
    format_ = chat(template, tags=ThinkTags(open_, close))
    made = encoded(row(user("a"), assistant(f"{open_}why{close}b")), format_)
    assert supervised(made, format_) == f"{open_}why{close}b<|im_end|>"


def test_thinking_that_the_prompt_opens_is_trained_from_its_tag_on() -> None:
    format_ = chat(OPENING)
    made = encoded(row(user("hi"), assistant("<think>\na</think>b")), format_)
    assert supervised(made, format_) == "<think>\na</think>b<|im_end|>"
    assert made.has_thinking
    prompt = format_.codec.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>")
    assert made.input_ids[: len(prompt)] == prompt
    assert len(prompt) - made.start == len("<think>")


def test_a_user_who_ends_on_the_tag_moves_no_label() -> None:
    """The template adds nothing to the last turn, so the tag at the prompt's end is the user's."""
    format_ = chat(BARE)
    made = encoded(row(user("say <think>"), assistant("no")), format_)
    assert supervised(made, format_) == "no<|im_end|>"


@pytest.mark.parametrize("content", ["\nb", " b", "b\n", "é", "</s>", "a\u0301", "𝟙 ∑\t"])
def test_odd_content_is_spelled_as_it_is(content: str) -> None:
    format_ = chat()
    made = encoded(row(user("a"), assistant(content)), format_)
    assert supervised(made, format_) == f"{content}<|im_end|>"


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
SHARED = chat()


@given(question=text, reply=text)
def test_any_text_is_trained_whole_or_refused_with_a_reason(question: str, reply: str) -> None:
    made = encode_row(row(user(question), assistant(reply)), SHARED)
    if isinstance(made, RefusedRow):
        assert made.reason
        return
    assert supervised(made, SHARED) == f"{reply}<|im_end|>"
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert made.input_ids[: made.start] == SHARED.codec.encode(prompt)


def test_more_end_tokens_may_follow_the_turn() -> None:
    """Phi-3 writes the sequence's end behind the turn's: the turn's is the one to learn."""
    format_ = chat(CHATML + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}")
    format_.codec.eos_tokens["<|endoftext|>"] = format_.codec.encode("<|endoftext|>")[0]
    made = encoded(row(user("a"), assistant("b")), format_)
    assert supervised(made, format_) == "b<|im_end|>"


LINES = {
    "not JSON": (b"{", "not valid JSON"),
    "no messages": (b'{"text": "a"}', "missing required field `messages`"),
    "messages a text": (b'{"messages": "a"}', "$.messages"),
    "no role": (b'{"messages": [{"content": "a"}]}', "messages[0].role"),
    "content a number": (b'{"messages": [{"role": "user", "content": 3}]}', "messages[0].content"),
    "calls a text": (
        b'{"messages": [{"role": "user", "content": "", "tool_calls": "x"}]}',
        "messages[0].tool_calls",
    ),
    "no assistant": (
        b'{"messages": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "a"}]}',
        "no final assistant turn: the last message is of role `user`",
    ),
    "empty": (b'{"messages": []}', "no final assistant turn"),
    "no prompt": (b'{"messages": [{"role": "assistant", "content": "b"}]}', "no prompt"),
    "empty answer": (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}',
        "turn is empty",
    ),
    "tools no JSON": (
        b'{"tools": "[", "messages": [{"role": "user", "content": "a"}]}',
        "not valid JSON",
    ),
    "not text": (b'{"messages": [{"role": "\xff"}]}', "byte 0xff at position 24 is not UTF-8"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_malformed_line_is_an_error_that_names_file_row_and_hint(case: str) -> None:
    line, reason = LINES[case]
    with pytest.raises(DataError) as caught:
        parse_row(line, 17, Path("rows.jsonl"))
    assert reason in caught.value.message
    assert (caught.value.file, caught.value.place) == ("rows.jsonl", "row 17")
    assert caught.value.hint


def test_tools_may_be_written_as_json_text_and_none_may_be_written_empty() -> None:
    messages = [user("a"), assistant("b")]
    for tools, read in ((json.dumps(TOOLS), TOOLS), (TOOLS, TOOLS), ([], None), ("", None)):
        line = json.dumps({"messages": messages, "tools": tools}).encode()
        assert parse_row(line, 1, Path("f")).tools == read


def test_rows_of_one_prompt_have_one_key() -> None:
    first, again = row(user("a"), assistant("b")), row(user("a"), assistant("c"))
    assert first.prompt_key == again.prompt_key != row(user("A"), assistant("b")).prompt_key
