"""A working directory for the tests of the checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checks import chat_line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data, a local model's config and no environment."""
    for name in ("JOBSPEC_BENCHMARK_DIR", "JOBSPEC_WORKER_COMMAND", "JOBSPEC_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text("".join(chat_line("2+2?", "4") + "\n" for _ in range(20)))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text('{"max_position_embeddings": 4096}')
    (tmp_path / "tiny/tokenizer.json").write_text("{}")
    return tmp_path
