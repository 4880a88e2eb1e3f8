"""The tokenizer of every engine here: a token a byte."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.engines import END
from tests.support.prepared import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token=END)
