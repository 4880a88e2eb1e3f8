"""Inputs that are missing, wrong, or change while they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import DataError, ModelError, SpecError, TemplateError
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths
from tests.support.models import model_dir
from tests.support.paths import stems
from tests.support.prepared import run_prepare, write_rows
from tests.support.specs import train_spec
from worker.data.pipeline import prepare


def wrong_inputs(model: Path, data: Path, tmp: Path) -> Iterator[tuple[str, JobSpec, Any, str]]:
    def with_model(path: Path, **fields: Any) -> dict[str, Any]:
        return {"model": {"name": str(path), **fields}}

    empty = tmp / "empty.jsonl"
    empty.touch()
    blank = write_rows(tmp / "blank.jsonl", [])
    blank.write_text("\n\n")
    no_template = model_dir(tmp / "no_template", None)
    no_tokenizer = model_dir(tmp / "no_tokenizer")
    for file in no_tokenizer.glob("*token*"):
        file.unlink()
    no_config = model_dir(tmp / "no_config")
    (no_config / "config.json").unlink()
    bad_config = model_dir(tmp / "bad_config")
    (bad_config / "config.json").write_text("{")
    yield "data missing", train_spec(model, tmp / "none"), DataError, "$.data.path"
    (tmp / "nothing").mkdir()
    yield "an empty directory", train_spec(model, tmp / "nothing"), DataError, "$.data.path"
    yield "data empty", train_spec(model, empty), DataError, "$.data.path"
    yield "data blank", train_spec(model, blank), DataError, "$.data.path"
    yield (
        "data changed",
        train_spec(model, data, data__sha256="0" * 64),
        DataError,
        "$.data.sha256",
    )
    yield "model missing", train_spec(tmp / "none", data), ModelError, "$.model.name"
    yield "not fetched", train_spec(Path("Qwen/Qwen3-8B"), data), ModelError, "$.model.name"
    yield "no config", train_spec(no_config, data), ModelError, "$.model.name"
    yield "bad config", train_spec(bad_config, data), ModelError, ""
    pickled = model_dir(tmp / "pickled")
    (pickled / "pytorch_model-00001-of-00002.bin").touch()
    yield "pickles alone", train_spec(pickled, data), ModelError, "$.model.name"
    yield "no tokenizer", train_spec(no_tokenizer, data), ModelError, ""
    yield "no template", train_spec(no_template, data), TemplateError, "$.model.chat_template"
    lost = with_model(model, chat_template=str(tmp / "none"))
    yield (
        "template lost",
        train_spec(model, data, **lost),
        TemplateError,
        "$.model.chat_template",
    )
    too_long = train_spec(model, data, train__max_length=4097)
    yield "too few positions", too_long, ModelError, "$.train.max_length"
    yield "nothing to train", train_spec(model, data, train=None, data=None), DataError, "$.data"


def test_wrong_inputs_are_errors_with_place_and_hint(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    for case, made, kind, place in wrong_inputs(model, data, tmp_path):
        with pytest.raises(kind) as caught:
            prepare(made, root)
        assert (caught.value.place or "") == place, case
        assert caught.value.hint, case
        without = ("not fetched", "model missing", "pickles alone", "nothing to train")
        assert caught.value.file or case in without
    assert not root.prepared.exists() or stems(root.prepared) == []


def test_a_model_of_the_hub_is_found_in_the_roots_cache(
    root: RootPaths, model: Path, data: Path
) -> None:
    repository = root.hub / "models--org--name"
    shutil.copytree(model, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc\n")
    report = prepare(train_spec(Path("org/name"), data), root)
    assert report.rows_in == 40
    pinned = train_spec(model, data, model={"name": "org/name", "revision": "abc"})
    assert prepare(pinned, root).key == report.key
    other = train_spec(model, data, model={"name": "org/name", "revision": "def"})
    with pytest.raises(ModelError, match="revision `def`") as caught:
        prepare(other, root)
    assert "jobspec fetch" in str(caught.value.hint)


def test_positions_stretched_by_rope_count(root: RootPaths, data: Path, tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    stretched = model_dir(tmp_path / "m", rope_scaling=scaling, max_position_embeddings=2048)
    assert prepare(train_spec(stretched, data, train__max_length=8192), root).rows_in == 40
    with pytest.raises(ModelError, match="context of 8192 tokens"):
        prepare(train_spec(stretched, data, train__max_length=8193), root)


def test_data_written_to_meanwhile_is_not_shelved(
    root: RootPaths, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_more(*_: Any) -> None:
        with data.open("a") as file:
            file.write("\n")

    with pytest.raises(DataError, match="changed while it was read"):
        prepare(train_spec(model, data), root, write_more)
    assert stems(root.prepared) == []


def test_a_spec_that_is_none_is_refused_as_json(root: RootPaths, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text('{"name": "x"}')
    done = run_prepare("--check", file, "--root", root.root)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["file"] == str(file)
    with pytest.raises(SpecError):
        parsing.load(file)
