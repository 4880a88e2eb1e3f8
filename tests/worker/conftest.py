"""What tests of several rooms of the worker share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of every engine in these tests: one token per byte."""
    from transformers import PreTrainedTokenizerFast

    from tests.support.engines import END
    from tests.support.models import byte_tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token=END)
