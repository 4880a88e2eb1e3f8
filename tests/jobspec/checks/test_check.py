"""jobspec.checks.check and data: what enqueue refuses, with the place and a hint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from jobspec.checks.check import CheckedSpec
from jobspec.errors import DataError, JobspecError, SpecError
from tests.support.checks import TEMPLATE, chat_line, checked, refusal


def test_paths_become_absolute_and_the_hash_is_filled_in(place: Path) -> None:
    (place / "t.jinja").write_text(TEMPLATE)
    (place / "bench").mkdir()
    spec = checked("model.chat_template=t.jinja", "eval.benchmark_dir=bench").spec
    assert spec.data is not None and spec.eval is not None
    assert spec.data.path == str(place / "train.jsonl")
    assert spec.data.sha256 == hashlib.sha256((place / "train.jsonl").read_bytes()).hexdigest()
    assert spec.model.name == str(place / "tiny")
    assert spec.model.chat_template == str(place / "t.jinja")
    assert spec.eval.benchmark_dir == str(place / "bench")


def checked_mixture(sources: str) -> CheckedSpec:
    return checked("data.path=null", f"data.sources={sources}")


def test_of_a_mixture_every_file_is_hashed_and_named(place: Path) -> None:
    (place / "b.2.jsonl").write_text(chat_line("3+3?", "6") + "\n")
    found = checked_mixture('[{"path": "train.jsonl"}, {"path": "b.2.jsonl", "repeat": 2}]')
    assert found.spec.data is not None and found.spec.data.path is None
    first, second = found.spec.data.sources
    assert (first.path, first.name) == (str(place / "train.jsonl"), "train")
    assert (second.path, second.name, second.repeat) == (str(place / "b.2.jsonl"), "b", 2.0)
    assert first.sha256 == hashlib.sha256((place / "train.jsonl").read_bytes()).hexdigest()
    assert second.sha256 == hashlib.sha256((place / "b.2.jsonl").read_bytes()).hexdigest()
    named = [{"path": "train.jsonl", "name": "train"}, {"path": "b.2.jsonl", "name": "b"}]
    named[1] |= {"repeat": 2}  # type: ignore[dict-item] - JSON
    assert checked_mixture(json.dumps(named)).job == found.job
    (place / "b.2.jsonl").write_text(chat_line("4+4?", "8") + "\n")
    assert checked_mixture(json.dumps(named)).job != found.job


def test_a_wrong_source_is_named_with_its_place(place: Path) -> None:
    def wrong(path: str, **fields: str) -> JobspecError:
        sources = json.dumps([{"path": "train.jsonl"}, {"path": path, **fields}])
        return refusal("data.path=null", f"data.sources={sources}")

    assert wrong("none.jsonl").place == "$.data.sources[1].path"
    (place / "blank.jsonl").write_text("\n")
    (place / "rows").mkdir()
    for name in ("blank.jsonl", "rows"):
        error = wrong(name)
        assert error.place == "$.data.sources[1].path", name
        assert name in str(error)
    (place / "b.jsonl").write_text(chat_line("3+3?", "6") + "\n")
    assert wrong("b.jsonl", sha256="0" * 64).place == "$.data.sources[1].sha256"
    (place / "bad.jsonl").write_text(chat_line("3+3?", "6") + "\n{\n")
    error = wrong("bad.jsonl")
    assert (error.file, error.place) == (str(place / "bad.jsonl"), "row 2")


def test_other_data_is_another_job(place: Path) -> None:
    first = checked().job
    with (place / "train.jsonl").open("a") as file:
        file.write(chat_line("3+3?", "6") + "\n")
    assert checked().job != first


def test_a_hub_name_stays_a_name(place: Path) -> None:
    assert checked(model="Qwen/Qwen3-8B").spec.model.name == "Qwen/Qwen3-8B"


def test_missing_data(place: Path) -> None:
    error = refusal(data="none.jsonl")
    assert isinstance(error, SpecError)
    assert (error.file, error.place) == ("specs/s.json", "$.data.path")
    assert "none.jsonl` does not exist" in error.message
    assert error.hint is not None and "`jobspec new … --data FILE`" in error.hint


def test_empty_data(place: Path) -> None:
    (place / "empty.jsonl").touch()
    assert "is empty" in refusal(data="empty.jsonl").message


def test_a_directory_as_data(place: Path) -> None:
    (place / "rows").mkdir()
    assert "has no data files" in refusal(data="rows").message
    (place / "rows" / "b.jsonl").write_text(chat_line("a", "b") + "\n")
    found = checked(data="rows").spec
    (place / "rows" / "README.md").touch()
    again = checked(data="rows").spec
    assert found.data is not None and found == again
    (place / "rows" / "c.jsonl").write_text(chat_line("a", "c") + "\n")
    other = checked(data="rows").spec
    assert other.data is not None and other.data.sha256 != found.data.sha256


def test_changed_data(place: Path) -> None:
    error = refusal(f'data.sha256="{"0" * 64}"')
    assert error.place == "$.data.sha256" and "has changed" in error.message


def test_a_line_that_is_no_json(place: Path) -> None:
    (place / "bad.jsonl").write_text(chat_line("a", "b") + "\n{torn\n" + chat_line("a", "b") + "\n")
    error = refusal(data="bad.jsonl")
    assert isinstance(error, DataError)
    assert (error.file, error.place) == (str(place / "bad.jsonl"), "row 2")


def test_a_row_that_does_not_end_with_the_assistant(place: Path) -> None:
    (place / "bad.jsonl").write_text(chat_line("a", "b") + "\n" + chat_line("a", "b", "c") + "\n")
    error = refusal(data="bad.jsonl")
    assert error.place == "row 2" and "assistant" in error.message and error.hint


def test_devices_that_do_not_divide_the_batch(place: Path) -> None:
    checked("resources.gpus=4", "train.global_batch_size=8")
    with pytest.raises(JobspecError, match="`3` devices do not divide 8 rows a step") as caught:
        checked("resources.gpus=3", "train.global_batch_size=8")
    assert caught.value.place == "$.resources.gpus"


def test_names_that_wandb_refuses_are_refused(place: Path) -> None:
    error = refusal("tracking.project=team/sweep")
    assert error.place == "$.tracking.project" and "`/`" in error.message
