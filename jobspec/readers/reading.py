"""What a reader returns."""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """The answer that was read in a response.

    Attributes:
        value: None if there is none. Answers that are equal have the same value.
        rule: how the place was found; None if it was not.
        read: the part of the response that was read.
    """

    value: str | None = None
    rule: str | None = None
    read: str | None = None
