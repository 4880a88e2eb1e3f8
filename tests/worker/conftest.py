"""What tests of several rooms of the worker share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.storage.layout import RootPaths


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of every engine in these tests: one token per byte."""
    from transformers import PreTrainedTokenizerFast

    from tests.support.engines import END
    from tests.support.models import byte_tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token=END)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a tokenizer of bytes."""
    from tests.support.models import model_dir

    return model_dir(tmp_path_factory.mktemp("models") / "bytes")


@pytest.fixture(scope="session")
def kept_tokenizers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that has asked Transformers about the model already: that takes seconds."""
    from tests.support.prepared import sums, write_rows
    from tests.support.specs import train_spec
    from worker.data.pipeline import prepare

    base = tmp_path_factory.mktemp("asked")
    prepare(train_spec(model, write_rows(base / "rows.jsonl", sums(2))), RootPaths(base / "root"))
    return base / "root" / "cache" / "tokenizers"


@pytest.fixture
def root(tmp_path: Path, kept_tokenizers: Path) -> RootPaths:
    shutil.copytree(kept_tokenizers, tmp_path / "root" / "cache" / "tokenizers")
    return RootPaths(tmp_path / "root")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Beside other tests, torch's threads wait for each other far longer than a test takes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
