"""Logs for people: without progress bars and libraries' warnings, but with every error."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspec.monitoring.readable_log import LogReader

BAR = (
    "Loading weights:   0%|          | 0/25 [00:00<?, ?it/s]\r"
    "Loading weights: 100%|████| 25/25 [00:00<00:00, 3.5it/s]"
)
WARNING = "/site-packages/torch/x.py:83: FutureWarning: `f` is deprecated.\n  return func(*args)\n"


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ("train: packs rows\n", "train: packs rows\n"),
        (f"{BAR}\n", ""),
        ("Writing shards: 0it [00:00, ?it/s]\rWriting shards: 0it [00:00, ?it/s]\n", ""),
        (f"{BAR}train: step 1 of 9\n", "train: step 1 of 9\n"),
        ("Map (num_proc=2):  50%|█████     | 5/10 [00:01<00:01, 4.9 examples/s]\n", ""),
        (f"a\n{WARNING}b\n", "a\nb\n"),
        (f"{WARNING}", ""),
        ("  indented, of our own\n", "  indented, of our own\n"),
        ("W1128 05:44:24.847000 2 torch/utils/_pytree.py:630] an Enum\n", ""),
        ("Failed to load /x/_C.so: Could not load this library\n", ""),
        ("done 100% | of it\n", "done 100% | of it\n"),
        ("matrix | a [1, 2] 50%\n", "matrix | a [1, 2] 50%\n"),
        (f"Traceback (most recent call last):\n  File x\n{WARNING}{BAR}\nValueError: no\n",
         f"Traceback (most recent call last):\n  File x\n{WARNING}{BAR}\nValueError: no\n"),
        ("no end of line", "no end of line"),
        ("kept\r\n", "kept\r\n"),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_log(log: str, shown: str, tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(log.encode())
    assert LogReader(path).read(last=True).decode() == shown
    assert LogReader(path, raw=True).read().decode() == log


def test_a_growing_log_is_read_the_same_wherever_it_is_cut(tmp_path: Path) -> None:
    log = f"one\n{BAR}\n{WARNING}two\n  three\nfour".encode()
    for cut in range(len(log)):
        path = tmp_path / "train.log"
        path.write_bytes(log[:cut])
        reader = LogReader(path)
        first = reader.read()
        path.write_bytes(log)
        assert first + reader.read(last=True) == b"one\ntwo\n  three\nfour"
        path.unlink()
