"""The tags of a think block, and which part of a response is read."""

from __future__ import annotations

import pytest

from worker.thinking import ThinkTags, answer_text, think_tags


@pytest.mark.parametrize(
    ("close", "open_", "derived"),
    [
        ("</think>", "<think>", True),
        ("[/THINK]", "[THINK]", True),
        ("</reasoning>", "<reasoning>", True),
        ("END", "<think>", False),
    ],
)
def test_the_opening_tag_follows_from_the_closing_one(
    close: str, open_: str, derived: bool
) -> None:
    assert think_tags(close) == ThinkTags(open_, close, derived)


def test_without_tags_the_whole_response_is_read() -> None:
    assert think_tags(None) is None
    assert answer_text("<think>70", None, opened=True) == "<think>70"


def test_a_block_closed_at_once_is_closed() -> None:
    assert answer_text("</think>70", think_tags("</think>"), opened=True) == "70"


def test_an_opening_tag_that_was_not_derived_opens_nothing() -> None:
    tags = think_tags("END")
    assert answer_text("<think>70", tags, opened=False) == "<think>70"
    assert answer_text("70", tags, opened=True) is None
    assert answer_text("thought END 70", tags, opened=True) == " 70"


@pytest.mark.parametrize(
    ("close", "open_"),
    [
        ("<|end_of_thought|>", "<|begin_of_thought|>"),
        ("<|end_think|>", "<|begin_think|>"),
        ("[END THINKING]", "[BEGIN THINKING]"),
    ],
)
def test_tags_without_a_slash(close: str, open_: str) -> None:
    tags = think_tags(close)
    assert tags == ThinkTags(open_, close)
    assert answer_text(f"{open_}a{close}70", tags, opened=False) == "70"
    assert answer_text(f"{open_}a", tags, opened=False) is None


@pytest.mark.parametrize(
    ("response", "opened", "answer"),
    [
        ("<think>a</think>70</think>", False, "70</think>"),
        ("a</think>70. I closed it with </think>.", True, "70. I closed it with </think>."),
        ("70: no <think> was needed", False, "70: no <think> was needed"),
        ("<think>a</think>70, see `<think>`", False, "70, see `<think>`"),
        ("a</think>1\n<think>\nb</think>70", True, "70"),
        ("a</think>1\n<think>\nb", True, None),
        ("a</think>1\n<think> is the tag", True, "1\n<think> is the tag"),
        ("a</think>70\n<think>\nb</think>\n", True, "70\n"),
        ("  \n<think>a</think>70", False, "70"),
        ("Well.\n<think>\na", False, None),
    ],
)
def test_mentioned_tags_open_and_close_nothing(
    response: str, opened: bool, answer: str | None
) -> None:
    assert answer_text(response, think_tags("</think>"), opened=opened) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (
            "<|channel|>analysis<|message|>12?<|end|><|start|>assistant"
            "<|channel|>final<|message|>70<|return|>",
            "70",
        ),
        ("<|channel|>final<|message|>70", "70"),
        ("<|channel|>analysis<|message|>The answer is 12", None),
        (
            "<|channel|>commentary<|message|>x<|end|><|start|>assistant"
            "<|channel|>final <|constrain|>json<|message|>{}",
            "{}",
        ),
    ],
)
def test_channels_of_gpt_oss(response: str, answer: str | None) -> None:
    tags = think_tags("</think>")
    assert answer_text(response, tags, opened=False) == answer
    assert answer_text(response, None, opened=False) == response
