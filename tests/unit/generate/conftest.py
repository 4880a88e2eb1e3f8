"""The tokenizer of every engine here: a token a byte."""

from __future__ import annotations

from typing import Any

import pytest
from enginekit import END
from preparekit import byte_tokenizer
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token=END)
