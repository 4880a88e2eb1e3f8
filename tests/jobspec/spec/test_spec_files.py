"""Every file in specs/ loads, is written canonically and says what the matrix says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.checks import check
from jobspec.errors import SpecError
from jobspec.spec import identity, parsing

FILES = sorted((Path(__file__).resolve().parents[3] / "specs").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_loads_and_is_canonical(file: Path) -> None:
    spec = parsing.load(file)
    assert identity.canonical(spec) == file.read_bytes()


def test_they_wait_for_rows_of_the_readers_own_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"data/train.jsonl` does not exist"):
        check.check(FILES[0], tmp_path / "root", rows=False)
    said = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").symlink_to("../rows.jsonl")
    for file in FILES:
        assert check.check(file, tmp_path / "root", rows=False).spec.data is not None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_is_named_as_its_file(file: Path) -> None:
    assert parsing.load(file).name == file.stem


def test_the_matrix_is_complete() -> None:
    runs = {
        (spec.model.name, spec.train.learning_rate)
        for file in FILES
        if (spec := parsing.load(file)).train is not None and spec.name != "smoke"
    }
    assert runs == {
        ("Qwen/Qwen3-8B", 1e-5),
        ("Qwen/Qwen3-8B", 5e-6),
        ("allenai/Olmo-3-7B-Think", 1e-5),
        ("allenai/Olmo-3-7B-Instruct", 1e-5),
    }


@pytest.mark.parametrize("file", [f for f in FILES if f.stem != "smoke"], ids=lambda f: f.name)
def test_runs_of_the_matrix_share_their_protocol(file: Path) -> None:
    spec = parsing.load(file)
    assert spec.train is not None and spec.eval is not None
    assert (spec.train.num_train_epochs, spec.train.zero_stage) == (8, 2)
    assert spec.eval.benchmarks == ("minerva_math500", "aime24", "aime25")
    assert (spec.eval.avg_k, spec.eval.temperature, spec.eval.top_p) == (32, 0.6, 0.95)
    assert spec.eval.top_k == (20 if "Qwen" in spec.model.name else None)


def test_the_smoke_spec_is_small() -> None:
    spec = parsing.load(next(file for file in FILES if file.stem == "smoke"))
    assert spec.train is not None and spec.eval is not None and spec.data is not None
    assert (spec.train.num_train_epochs, spec.data.max_train_samples) == (1, 64)
    assert (spec.eval.limit, spec.eval.avg_k, spec.eval.max_gen_toks) == (2, 2, 512)


@pytest.mark.parametrize("token", ['""', '" "', '"\\n"'])
def test_an_empty_think_end_token_is_refused(token: str) -> None:
    evaluation = f'{{"think_end_token": {token}}}'
    text = f'{{"name": "a", "model": {{"name": "m"}}, "train": null, "eval": {evaluation}}}'
    with pytest.raises(SpecError) as caught:
        parsing.decode(text.encode())
    assert caught.value.place == "$.eval.think_end_token"
