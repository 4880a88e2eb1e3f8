"""A spec made small: what stays, what changes, and which rows it trains."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from jobspec.errors import SpecError
from jobspec.spec import rules
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths
from tests.support.models import model_dir
from tests.support.specs import train_spec
from worker.audit.shrink import shrink


def rows_file(path: Path, count: int, text: str = "x") -> Path:
    rows = [{"messages": [{"role": "user", "content": f"{number}"},
                          {"role": "assistant", "content": text * (number + 1)}]}
            for number in range(count)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(tmp_path: Path, spec: JobSpec, ranks: int = 1) -> JobSpec:
    directory = tmp_path / "small"
    directory.mkdir()
    small, _ = shrink(spec, RootPaths(tmp_path), directory, ranks=ranks, on_gpu=False)
    rules.check(small)
    return small


@pytest.fixture
def model(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 6}
    return model_dir(tmp_path / "model", **sizes, pad_token_id=0, bos_token_id=0, eos_token_id=1)


def test_what_decides_about_a_resume_stays(model: Path, tmp_path: Path) -> None:
    kept = {
        "zero_stage": 2,
        "offload": "optimizer",
        "packing": True,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch",
        "seed": 7,
        "gradient_checkpointing": True,
        "warmup_ratio": 0.1,
    }
    train = {**kept, "lora": {"r": 64, "dropout": 0.1}, "global_batch_size": 64}
    data = rows_file(tmp_path / "rows.jsonl", 200)
    small = made(tmp_path, train_spec(model, data, train=train, model__dtype="bfloat16"), 2)
    assert small.train is not None and small.data is not None
    found = msgspec.to_builtins(small.train)
    assert {name: found[name] for name in kept} == kept
    assert small.train.lora is not None
    assert (small.train.lora.r, small.train.lora.dropout) == (4, 0.1)
    assert (small.model.dtype, small.eval, small.resources.gpus) == ("bfloat16", None, 2)
    assert small.data.eval_split_ratio == 0.05


def test_its_rows_are_few_short_and_of_different_lengths(model: Path, tmp_path: Path) -> None:
    text = "<think>" + "a" * 1000 + "</think>" + "b" * 1000
    data = rows_file(tmp_path / "long.jsonl", 10, text)
    mixed = rows_file(tmp_path / "mixed.jsonl", 300)
    sources = [{"path": str(data), "weight": 1.0}, {"path": str(mixed), "weight": 2.0}]
    spec = train_spec(model, data, data__path=None, data__sources=sources)
    small = made(tmp_path, spec)
    assert small.data is not None
    assert [(source.name, source.weight) for source in small.data.sources] == [
        ("long", 1.0),
        ("mixed", 2.0),
    ]
    long, short = ([json.loads(line) for line in Path(source.path).read_text().splitlines()]
                   for source in small.data.sources)  # fmt: skip
    assert len(long) == 10 and len(short) == 19
    assert all("</think>" in row["messages"][1]["content"] for row in long)
    assert max(len(row["messages"][1]["content"]) for row in long) < 1500
    assert len({len(row["messages"][1]["content"]) for row in short}) == 19


@pytest.mark.parametrize(("ranks", "batch", "micro"), [(1, 8, 4), (2, 8, 2), (4, 8, 1), (3, 9, 1)])
def test_the_batch_fits_the_ranks(
    model: Path, tmp_path: Path, ranks: int, batch: int, micro: int
) -> None:
    train = {"global_batch_size": 64, "per_device_train_batch_size": 16}
    data = rows_file(tmp_path / "rows.jsonl", 100)
    small = made(tmp_path, train_spec(model, data, train=train), ranks)
    assert small.train is not None
    found = small.train.global_batch_size, small.train.per_device_train_batch_size
    assert found == (batch, micro)


def test_ranks_that_can_not_share_rows_are_refused(model: Path, tmp_path: Path) -> None:
    data = rows_file(tmp_path / "rows.jsonl", 100)
    with pytest.raises(SpecError, match="groups of 2 ranks can't be made of 3"):
        made(tmp_path, train_spec(model, data, train={"sequence_parallel": 2}), 3)
