"""jobspec.checks.rows: the row check, which runs the worker's own code in another process."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobspec.checks import check, rows
from jobspec.cli import cli
from jobspec.errors import JobspecError, SpecError
from jobspec.spec import parsing
from tests.support.checks import TEMPLATE, chat_line, spec_file
from tests.support.paths import DATA, REPOSITORY, needs_data

SETTINGS = ("model.chat_template=t.jinja", "eval.max_gen_toks=64")


@pytest.fixture
def tiny(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real tokenizer and config of a small trained model, with a chat template beside it."""
    pytest.importorskip("tokenizers", reason="needs the worker extra")
    for file in (DATA / "tiny_stories260k_hf").iterdir():
        (place / "tiny" / file.name).write_bytes(file.read_bytes())
    (place / "t.jinja").write_text(TEMPLATE)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return place


def prove(*settings: str, **options: str) -> check.CheckedSpec:
    return check.check(spec_file(*SETTINGS, *settings, **options), Path("root"))


@needs_data
def test_rows_are_proved_by_the_workers_code(tiny: Path) -> None:
    found = prove()
    report = found.rows
    assert report is not None
    assert any("without thinking" in warning for warning in found.warnings)
    assert not (tiny / "root").exists(), "checking makes no root"
    assert report.rows_in == 20 and report.rows_train + report.rows_eval == 20
    assert 0 < report.trained_tokens < report.tokens
    assert report.dropped == {} and report.length_percentiles["max"] > 0


@needs_data
def test_a_row_the_worker_refuses(tiny: Path) -> None:
    (tiny / "bad.jsonl").write_text(chat_line("a", "b") + "\n{torn\n")
    with pytest.raises(JobspecError) as caught:
        prove(data="bad.jsonl")
    assert (caught.value.file, caught.value.place) == (str(tiny / "bad.jsonl"), "row 2")
    assert caught.value.hint


@needs_data
def test_a_row_left_out_is_named(tiny: Path) -> None:
    unclosed = chat_line("a", "<think>no end")
    (tiny / "one.jsonl").write_text("\n".join([*[chat_line("2+2?", "4")] * 30, unclosed]) + "\n")
    done = CliRunner().invoke(
        cli, ["validate", str(spec_file(*SETTINGS, data="one.jsonl")), "--root", "root"]
    )
    assert "1 dropped (1 unclosed thinking)" in done.output
    assert "row 31, dropped as unclosed_thinking: " in done.output


@needs_data
def test_think_end_token_must_occur(tiny: Path) -> None:
    with pytest.raises(SpecError) as caught:
        prove("eval.think_end_token=</reasoning>")
    assert caught.value.place == "$.eval.think_end_token"


@needs_data
def test_a_row_refused_under_another_think_end_token_asks_after_it(tiny: Path) -> None:
    said = chat_line(
        "a", "<think>b</think>c"
    )  # under these tags plain text, which the template drops
    (tiny / "t.jinja").write_text((tiny / "t.jinja").read_text().replace("m.content", "''"))
    (tiny / "bad.jsonl").write_text(said + "\n")
    for settings, asked in ((), False), (("eval.think_end_token=</thought>",), True):
        with pytest.raises(JobspecError) as caught:
            prove(*settings, data="bad.jsonl")
        assert caught.value.place == "row 1"
        assert ("$.eval.think_end_token" in (caught.value.hint or "")) == asked


@needs_data
def test_preview_shows_the_trained_span(tiny: Path) -> None:
    spec = check.complete(parsing.load(spec_file("model.chat_template=t.jinja")))
    shown = rows.preview(spec, Path("root"), 1)
    assert shown.text.endswith("<|assistant|>4</s>")
    assert shown.supervised_text == "4</s>"
    trained = tuple(label for label in shown.labels if label != -100)
    assert trained and shown.input_ids[-len(trained) :] == trained


def test_without_the_worker_the_check_is_refused_with_a_hint(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", f"{shlex.quote(sys.executable)} -I -S")
    with pytest.raises(JobspecError, match="`worker` is missing") as caught:
        check.check(spec_file(), Path("root"))
    assert "--no-row-check" in (caught.value.hint or "")


def test_an_image_command_that_does_not_exist(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", "/nowhere/apptainer exec x.sif python")
    with pytest.raises(JobspecError, match="can't be run"):
        check.check(spec_file(), Path("root"))
