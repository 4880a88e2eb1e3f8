"""The overview of a data file: counts, lengths, duplicates, and what is shown without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.errors import DataError
from jobspec.records.answers import Preview
from jobspec.records.base import UNSET
from jobspec.records.overview import DataOverview, NearDuplicate
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths
from tests.support.paths import REPOSITORY
from tests.support.prepared import Rows, assistant, sums, user, write_rows
from tests.support.specs import train_spec, write_spec
from worker.preview.overview import overview

LONG = " ".join(f"word{n}" for n in range(60))


def rows() -> Rows:
    """40 rows: 1 is repeated as 31, row 2 nearly as 32; 33 is too long, 34 malformed."""
    made = sums(40)
    made[1]["messages"][1]["content"] = f"<think>{LONG}</think>2"
    made[30] = json.loads(json.dumps(made[0]))
    made[31] = json.loads(json.dumps(made[1]))
    made[31]["messages"][1]["content"] += " indeed"
    made[32]["messages"][1]["content"] = f"<think>{'x' * 2000}</think>2"
    made[33] = {"messages": [user("a")]}
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", rows())


def spec(model: str | Path, data: Path, **changes: Any) -> JobSpec:
    return train_spec(model, data, data__max_dropped_frac=0.1, **changes)


def test_rows_lengths_and_duplicates_are_counted(root: RootPaths, model: Path, data: Path) -> None:
    found, first = overview(spec(model, data), root)
    assert (found.conversations, found.malformed, found.unit) == (39, 1, "tokens")
    report = found.rows
    assert report is not None
    assert report.rows_train + report.rows_eval == 38
    assert report.dropped == {"malformed": 1, "over_long": 1}
    assert 2000 < report.over_long_tokens < 2200
    assert sum(one.rows for one in found.lengths) == sum(one.rows for one in found.trained) == 38
    assert found.lengths[-1].most >= 400 > found.trained[0].least
    assert found.duplicates.exact_rows == 1
    assert found.duplicates.exact_examples == ((31, 1),)
    assert found.duplicates.near_rows == 1
    (near,) = found.duplicates.near_examples
    assert near == NearDuplicate(row=32, earlier=2, similarity=near.similarity)
    assert 0.8 <= near.similarity < 1
    assert found.duplicates.compared == 39
    assert (found.overlap, found.refused) == ({"aime24": None}, None)
    assert (first.row, first.overview) == (1, UNSET)
    assert first.supervised_text


def test_rows_of_a_mixture_are_counted_on(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    other = write_rows(tmp_path / "other.jsonl", sums(3))
    mixed = {"data__path": None, "data__sources": [{"path": other}, {"path": data}]}
    found, first = overview(spec(model, data, **mixed), root)
    assert found.sources == (("other", 0), ("rows", 3))
    assert found.duplicates.exact_rows == 3 and (34, 1) in found.duplicates.exact_examples
    assert found.rows is not None
    assert [one.name for one in found.rows.sources] == ["other", "rows"]
    assert (first.row, first.text[:20]) == (1, "<|im_start|>user\nWha")


def test_what_will_be_refused_is_shown_with_the_reason(
    root: RootPaths, model: Path, data: Path
) -> None:
    found, _ = overview(train_spec(model, data), root)  # 2 of 40 rows are 5 %
    assert found.refused is None
    found, _ = overview(train_spec(model, data, data__max_dropped_frac=0.01), root)
    assert "2 of 40 rows can't be used" in str(found.refused)
    assert found.rows is not None and found.rows.rows_train


def test_benchmark_questions_are_shown_and_refused(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    asked = [{"id": "q", "problem": "What is 7 + 7?", "answer": "14"}]
    write_rows(tmp_path / "aime_own.jsonl", asked)
    scored = {"benchmarks": ["aime_own"], "benchmark_dir": str(tmp_path)}
    for name in (str(model), "no/such-model"):
        found, _ = overview(spec(name, data, eval=scored), root)
        own = found.overlap["aime_own"]
        assert own is not None and (own.rows, own.examples) == ((8,), (("q", 8),))
        assert "row 8: contains question `q`" in str(found.refused)
        allowed = spec(name, data, eval=scored, data__allow_contaminated=True)
        assert overview(allowed, root)[0].refused is None


def test_without_the_model_the_texts_are_counted(root: RootPaths, data: Path) -> None:
    found, first = overview(spec("no/such-model", data), root)
    assert "no/such-model" in str(found.not_tokenized)
    assert (found.rows, found.unit, found.trained) == (None, "characters", ())
    assert sum(one.rows for one in found.lengths) == 39
    assert found.duplicates.exact_rows == found.duplicates.near_rows == 1
    assert (first.row, first.text) == (1, "")


def run(file: Path, root: RootPaths, *, missing: tuple[str, ...] = ()) -> DataOverview:
    code = (
        "import sys, runpy\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"
        "runpy.run_module('worker.preview.preview_command', run_name='__main__')"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(file), "--root", str(root.root)]
    answered = subprocess.check_output(command, cwd=REPOSITORY)
    shown = msgspec.json.decode(answered, type=Preview).overview
    assert shown is not UNSET
    return shown


def test_the_program_answers_as_json_with_and_without_the_workers_packages(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", spec(model, data))
    found = run(file, root)
    assert found.rows is not None and found.duplicates.near_rows == 1
    bare = run(file, root, missing=("jinja2", "tokenizers", "torch"))
    assert bare.not_tokenized == "`jinja2` is missing"
    assert bare.duplicates == found.duplicates


def test_data_that_can_not_be_read_is_refused(root: RootPaths, model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": NaN}]}\n')
    with pytest.raises(DataError, match="NaN"):
        overview(spec(model, bad), root)


def test_a_file_without_conversations_is_shown(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"messages": []}, {"messages": [assistant("a")]}])
    found, first = overview(spec(model, bad), root)
    assert (found.conversations, found.malformed) == (0, 2)
    assert found.refused is not None and found.lengths == ()
    assert (first.row, first.text) == (1, "")
