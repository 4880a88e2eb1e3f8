"""A model of bytes, a root that knows it, and rows: what the tests of prepare begin with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobspec.storage.layout import RootPaths
from tests.support.models import model_dir
from tests.support.prepared import sums, write_rows
from tests.support.specs import train_spec
from worker.data.pipeline import prepare


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_dir(tmp_path_factory.mktemp("models") / "bytes")


@pytest.fixture(scope="session")
def kept_tokenizers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that has asked Transformers about the model already: that takes seconds."""
    base = tmp_path_factory.mktemp("asked")
    prepare(train_spec(model, write_rows(base / "rows.jsonl", sums(2))), RootPaths(base / "root"))
    return base / "root" / "cache" / "tokenizers"


@pytest.fixture
def root(tmp_path: Path, kept_tokenizers: Path) -> RootPaths:
    shutil.copytree(kept_tokenizers, tmp_path / "root" / "cache" / "tokenizers")
    return RootPaths(tmp_path / "root")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", sums(40))
