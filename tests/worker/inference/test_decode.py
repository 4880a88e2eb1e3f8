"""Thinking and stop strings, found in tokens where the tags are tokens, and else in the text."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken

from tests.support.engines import END
from tests.support.models import byte_tokenizer
from worker.inference.decode import Responses
from worker.inference.requests import ResponseRules, SampleRequest

REQUEST = SampleRequest(question="q", sample=0, seed=1, prompt=(1,))


@pytest.fixture(scope="module")
def with_tags() -> Any:
    """A tokenizer in which `<think>` and `</think>` are tokens."""
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token=END)
    made.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    return made


def ids(tokenizer: Any, *parts: str) -> list[int]:
    """The tokens of parts: tags as tokens where the tokenizer has them, other text as bytes."""
    found: list[int] = []
    for part in parts:
        if part in ("<think>", "</think>"):
            found += tokenizer(part, add_special_tokens=False)["input_ids"]
        else:  # a tag inside other text is written in bytes
            for char in part:
                found += tokenizer(char, add_special_tokens=False)["input_ids"]
    return found


@pytest.mark.parametrize(
    ("parts", "opened", "thinking", "answer"),
    [
        (("<think>", "a", "</think>", "70"), False, "closed", "70"),
        (("a", "</think>", "70"), True, "closed", "70"),
        (("a",), True, "open", None),
        (("70",), False, "none", "70"),
        # Written in other tokens, a tag in the answer is only mentioned.
        (("a", "</think>", "70 </think> <think>"), True, "closed", "70 </think> <think>"),
        (("a", "</think>", "70", "</think>", "!"), True, "closed", "70</think>!"),
        (("the tag </think> closes", "</think>", "70"), True, "closed", "70"),
        (("a", "</think>", "70", "<think>", "b"), True, "open", None),
        # A model that writes the tag in other tokens only.
        (("a</think>70",), True, None, None),
    ],
)
def test_thinking_is_found_in_the_tokens(
    with_tags: Any, parts: tuple[str, ...], opened: bool, thinking: str | None, answer: str | None
) -> None:
    rules = ResponseRules(think_end_token="</think>", opens_think=opened)
    responses = Responses(with_tags, with_tags.eos_token_id)
    row = responses.generation(REQUEST, ids(with_tags, *parts), rules=rules)
    assert row.text == "".join(parts)
    assert row.thinking == thinking
    if answer is not None:
        assert row.text[row.answer_start :] == answer


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        (("<think>", "Problem: a", "</think>", "70\nProblem: b"), "<think>Problem: a</think>70\n"),
        (("<think>", "Problem: a"), None),
        (("70\n\nProblem: b Problem:",), "70\n\n"),
        (("70",), None),
    ],
)
def test_a_stop_string_ends_the_answer_and_no_thinking(
    tokenizer: Any, with_tags: Any, parts: tuple[str, ...], kept: str | None
) -> None:
    rules = ResponseRules(think_end_token="</think>", stops=("Problem:",))
    for each in (tokenizer, with_tags):
        responses = Responses(each, each.eos_token_id)
        row = responses.generation(REQUEST, ids(each, *parts), rules=rules)
        assert row.finish == ("length" if kept is None else "stop")
        assert row.text == ("".join(parts) if kept is None else kept)
        watch = responses.stop_watch(rules)
        assert watch is not None
        reached = any(watch(ids(each, *parts, " " * more)) for more in range(8))
        assert reached == (kept is not None)


def test_without_stop_strings_nothing_is_watched(tokenizer: Any) -> None:
    assert Responses(tokenizer, None).stop_watch(ResponseRules()) is None
