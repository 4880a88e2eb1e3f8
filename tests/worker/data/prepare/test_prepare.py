"""The prepare phase: its files, its answers, and the rows that it drops."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jobspec.errors import DataError, TemplateError
from jobspec.records.reports import PrepareReport
from jobspec.storage.layout import JobPaths, RootPaths
from tests.support.models import CHATML, OPENING, model_dir
from tests.support.paths import REPOSITORY, stems
from tests.support.prepared import (
    Rows,
    assistant,
    read_split,
    run_prepare,
    sums,
    user,
    write_rows,
)
from tests.support.queues import attempt_of
from tests.support.specs import train_spec, write_spec
from worker.data.dataset_cache import IGNORED
from worker.data.pipeline import prepare
from worker.preview.overview import show_row


def test_the_phase_leaves_rows_and_a_report(root: RootPaths, model: Path, data: Path) -> None:
    import datasets

    attempt = attempt_of(root.root, train_spec(model, data, eval=None)).dir
    done = run_prepare(attempt)
    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode((attempt / "prepare.json").read_bytes(), type=PrepareReport)
    counts = {
        key: getattr(report, key) for key in ("rows_in", "rows_train", "rows_eval", "dropped")
    }
    assert counts == {"rows_in": 40, "rows_train": 38, "rows_eval": 2, "dropped": {}}
    assert 0 < report.seconds < 120
    assert report.inference_chat_template.strip() == CHATML.strip()
    directory = root.root / report.dir
    assert stems(directory) == ["eval", "prepared.json", "train"]
    train = datasets.load_from_disk(str(directory / "train"))
    ids = datasets.List(datasets.Value("int32"))
    assert train.features == {"input_ids": ids, "labels": ids, "row": datasets.Value("int64")}
    rows = [*read_split(root, report, "train"), *read_split(root, report, "eval")]
    assert sorted(row["row"] for row in rows) == list(range(1, 41))
    assert sum(len(row["input_ids"]) for row in rows) == report.tokens
    trained = sum(label != IGNORED for row in rows for label in row["labels"])
    assert trained == report.trained_tokens
    assert report.train.tokens + report.eval.tokens == report.tokens
    for row in rows:
        shown = show_row(train_spec(model, data), root, row["row"])
        assert (list(shown.input_ids), list(shown.labels)) == (row["input_ids"], row["labels"])


def test_a_spec_edited_after_enqueue_is_refused(root: RootPaths, model: Path, data: Path) -> None:
    attempt = attempt_of(root.root, train_spec(model, data)).dir
    job = JobPaths(attempt.parent.parent)
    job.spec.write_bytes(job.spec.read_bytes().replace(b'"notes": ""', b'"notes": "!"'))
    done = run_prepare(attempt)
    assert done.returncode == 3
    assert "edited after enqueue" in json.loads((attempt / "error.json").read_text())["message"]
    assert not root.prepared.exists()


def test_a_benchmark_that_is_not_here_ends_the_job_before_training(
    root: RootPaths, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the worker sets it
    spec = train_spec(model, data, eval={"benchmarks": ["aime24", "minerva_math500"]})
    attempt = attempt_of(root.root, spec).dir
    assert run_prepare(attempt).returncode == 3
    error = json.loads((attempt / "error.json").read_text())
    assert "`aime24` is in no benchmark directory" in error["message"]
    assert "`minerva_math500` is in no benchmark directory" in error["message"]
    assert error["hint"].count("run `jobspec fetch SPEC…`") == 1


def test_check_and_preview_print_json_alone(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", train_spec(model, data))
    checked = json.loads(run_prepare("--check", file, "--root", root.root).stdout)
    assert (checked["rows_in"], checked["cached"]) == (40, False)
    asked = [str(file), "--row", "3", "--root", str(root.root)]
    command = [sys.executable, "-W", "error", "-m", "worker.preview.preview_command", *asked]
    shown = json.loads(subprocess.check_output(command, cwd=REPOSITORY))
    assert shown["supervised_text"] == "<think>Twice 2.</think>4<|im_end|>"
    assert shown["text"].startswith("<|im_start|>user\nWhat is 2 + 2?<|im_end|>")
    assert len(shown["input_ids"]) == len(shown["labels"])
    assert (shown["schema"], shown["row"], shown["dropped"]) == (1, 3, None)


def test_a_refusal_is_json_with_place_and_hint_and_exit_code_3(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(20))
    rows.write_text(rows.read_text().replace("\n", "\n{\n", 18).replace("\n{\n", "\n", 16))
    file = write_spec(tmp_path / "spec.json", train_spec(model, rows))
    done = run_prepare("--check", file, "--root", root.root)
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["message"].startswith("2 of 22 rows can't be used for training (malformed: 2)")
    assert "not valid JSON" in error["message"]
    assert (error["file"], error["place"]) == (str(rows), "row 18")
    assert error["hint"]


def test_output_of_a_models_own_code_is_not_read_as_the_answer(
    root: RootPaths, data: Path, tmp_path: Path
) -> None:
    model = model_dir(tmp_path / "talks")
    (model / "own.py").write_text(
        "print('hello')\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Own(PreTrainedTokenizerFast):\n    pass\n"
    )
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    made = train_spec(model, data, model={"name": str(model), "trust_remote_code": True})
    done = run_prepare("--check", write_spec(tmp_path / "spec.json", made), "--root", root.root)
    assert json.loads(done.stdout)["rows_in"] == 40
    assert "hello" in done.stderr


def test_preview_of_a_dropped_row_says_why(root: RootPaths, model: Path, tmp_path: Path) -> None:
    rows = [*sums(1), {"messages": [user("a"), assistant("<think>b")]}]
    made = train_spec(model, write_rows(tmp_path / "rows.jsonl", rows))
    shown = show_row(made, root, 2)
    assert shown.dropped.startswith("unclosed_thinking: ")
    assert shown.text.endswith("<think>b<|im_end|>\n")
    assert shown.labels == ()
    for number in (0, 3):
        with pytest.raises(DataError, match=f"no row {number}"):
            show_row(made, root, number)


def long_rows(count: int) -> Rows:
    return [{"messages": [user(f"{i}"), assistant("x" * 2000)]} for i in range(count)]


def test_over_long_rows_are_dropped_whole_and_counted(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = [*sums(50), *long_rows(2)]
    report = prepare(train_spec(model, write_rows(tmp_path / "rows.jsonl", rows)), root)
    assert report.dropped == {"over_long": 2}
    assert report.rows_kept == 50
    assert report.rows_without_thinking == 0
    kept = [*read_split(root, report, "train"), *read_split(root, report, "eval")]
    assert max(len(row["input_ids"]) for row in kept) < 100
    assert report.length_percentiles["max"] > 2000
    (first,) = report.first_dropped
    assert (first.row, first.kind) == (51, "over_long")


def test_too_many_dropped_rows_stop_the_job_and_name_the_first(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    unclosed = {"messages": [user("why?"), assistant("<think>no end")]}
    rows = write_rows(tmp_path / "rows.jsonl", [*sums(50), unclosed, *long_rows(2)])
    for _ in range(2):  # prepared, then found in the cache
        with pytest.raises(DataError) as caught:
            prepare(train_spec(model, rows), root)
        message = caught.value.message
        assert (
            "3 of 53 rows can't be used for training (over_long: 2, unclosed_thinking: 1)"
            in message
        )
        assert "<|im_start|>assistant\n<think>no end<|im_end|>" in message
        assert (caught.value.file, caught.value.place) == (str(rows), "row 51")
        assert "max_dropped_frac 0.05" in str(caught.value.hint)
    allowed = prepare(train_spec(model, rows, data__max_dropped_frac=0.1), root)
    assert allowed.cached
    assert allowed.rows_kept == 50


def test_a_template_that_fits_no_row_is_the_templates_error(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    template = tmp_path / "non_thinking.jinja"
    template.write_text(OPENING.replace("<think>'", r"<think>\n\n</think>\n\n'"))
    rows = write_rows(tmp_path / "rows.jsonl", sums(20))
    named = {"name": str(model), "chat_template": str(template)}
    with pytest.raises(TemplateError) as caught:
        prepare(train_spec(model, rows, model=named, data__max_dropped_frac=1), root)
    assert "20 of 20 rows" in caught.value.message
    assert "is not a prefix" in caught.value.message
    assert caught.value.place == "row 1"


def test_all_rows_dropped_is_an_error_whatever_is_allowed(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", long_rows(3))
    with pytest.raises(DataError, match="3 of 3 rows"):
        prepare(train_spec(model, rows, data__max_dropped_frac=1), root)


def test_whether_the_end_of_thinking_occurs_is_told(
    root: RootPaths, model: Path, data: Path
) -> None:
    report = prepare(train_spec(model, data), root)
    assert (report.rows_with_think_end_token, report.think_end_in_template) == (40, True)
    report = prepare(train_spec(model, data, eval__think_end_token="[/THINK]"), root)
    assert (report.rows_with_think_end_token, report.think_end_in_template) == (0, False)
    assert report.rows_without_thinking == 40


def test_the_prompt_is_the_one_met_at_inference(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    """`eval.chat_template_kwargs` reach the template here too."""
    template = tmp_path / "mode.jinja"
    template.write_text("{{ '<|im_start|>system\\nmode ' ~ mode ~ '<|im_end|>\\n' }}" + CHATML)
    named = {"name": str(model), "chat_template": str(template)}
    made = train_spec(model, data, model=named, eval__chat_template_kwargs={"mode": "deep"})
    assert show_row(made, root, 1).text.startswith("<|im_start|>system\nmode deep<|im_end|>")
