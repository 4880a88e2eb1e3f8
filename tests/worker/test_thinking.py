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
