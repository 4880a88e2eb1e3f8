"""Weights are read ahead whole, in pieces that the kernel takes, and faults are left to others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobspec.spec.schema import ModelSpec
from jobspec.storage.layout import RootPaths
from worker.host import read_ahead


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """The bytes that were asked for of each file, by its inode."""
    found: dict[int, int] = {}

    def advise(descriptor: int, at: int, length: int, advice: int) -> None:
        status = os.fstat(descriptor)
        assert length <= 1 << 17 and advice == os.POSIX_FADV_WILLNEED
        assert at == found.get(status.st_ino, 0)
        found[status.st_ino] = min(at + length, status.st_size)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return found


def read(directory: Path) -> None:
    read_ahead.start(ModelSpec(name=str(directory)), RootPaths(directory)).join()


def weights(directory: Path, name: str, size: int) -> int:
    (directory / name).write_bytes(bytes(size))
    return (directory / name).stat().st_ino


def test_every_byte_of_the_weights_is_asked_for(tmp_path: Path, advised: dict[int, int]) -> None:
    sizes = {weights(tmp_path, f"model-{size}.safetensors", size): size for size in (300_000, 9)}
    weights(tmp_path, "training_args.bin", 20)
    read(tmp_path)
    assert advised == sizes


def test_weights_larger_than_memory_are_left_alone(
    tmp_path: Path, advised: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights(tmp_path, "model.safetensors", 1000)
    monkeypatch.setattr(
        os, "sysconf", lambda name: {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 1999}[name]
    )
    read(tmp_path)
    assert advised == {}


def test_a_model_that_is_not_there_is_no_fault(tmp_path: Path, advised: dict[int, int]) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "nowhere")
    read_ahead.start(ModelSpec(name="some/model"), RootPaths(tmp_path)).join()
    for directory in (tmp_path / "missing", tmp_path):
        read(directory)
    assert advised == {}
