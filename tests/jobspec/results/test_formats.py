"""`jobspec results`: runs in every state, the settings that differ, and the printed formats."""

from __future__ import annotations

import csv
import io
import itertools
import re
from typing import Any

import msgspec
from markdown_it import MarkdownIt

from jobspec.queue.queue import Queue
from jobspec.records.attempt import Result
from jobspec.records.base import Reason
from jobspec.records.reports import TrainReport
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from tests.support.commands import jobspec, jobspec_json
from tests.support.queues import ended, enqueue_and_claim, fail, report_progress, scores
from tests.support.specs import job_spec

STEP = {"attempt": 1, "seq": 1, "time": "2026-11-22T10:30:00Z", "phase": "train", "step": 43}


def trained(name: str, **train: Any) -> JobSpec:
    model = train.pop("model", "Qwen/Qwen3-8B")
    return job_spec(model, name=name, data__path="/data/a.jsonl", train=train)


def finish(queue: Queue, spec: JobSpec, loss: float | None = None) -> None:
    claim = enqueue_and_claim(queue, spec)
    claim.end(ended(Reason.SUCCEEDED))
    report = TrainReport(loss=loss, eval_loss=loss + 0.25) if loss is not None else None
    fields: dict[str, Any] = {"metrics": scores(0.9, loss or 0.5)}
    fields |= {"train": report} if report is not None else {}
    claim.finish("succeeded", Result(job=claim.job, attempt=1, **fields))


def sweep(queue: Queue) -> None:
    """Two seeds that ended, one that runs and has a loss, one that failed, one that waits."""
    finish(queue, trained("one", seed=1), 0.75)
    finish(queue, trained("two", seed=2, lora={"r": 8}), 0.5)
    claim = enqueue_and_claim(queue, trained("three", seed=3))
    report_progress(claim, 43)
    fs.replace(claim.dir.metrics, msgspec.json.encode(STEP | {"loss": 1.25}) + b"\n")
    fail(queue, trained("four", seed=4, model="a|b"), "row 17: no | turn")
    finish(queue, job_spec("Qwen/Qwen3-8B", name="base"))
    queue.enqueue(trained("waits", seed=5))


def test_every_run_has_a_row_with_its_state_and_its_losses(queue: Queue) -> None:
    sweep(queue)
    shown = jobspec("results", "--root", queue.paths.root).stdout
    head, *lines = [line for line in shown.splitlines() if not line.startswith("  ")]
    assert re.split(r"\s{2,}", head) == [
        "MODEL", "STATE", "LR", "TRAINING", "SEED", "LOSS", "HELD-OUT", "MATH500", "AIME24 AVG@32",
        "JOB",
    ]  # fmt: skip
    rows = {line.split()[-1].rpartition("-")[0]: re.split(r"\s{2,}", line) for line in lines}
    assert rows["one"][:7] == ["Qwen/Qwen3-8B", "succeeded", "1e-5", "full", "1", "0.750", "1.000"]
    assert rows["two"][3:6] == ["LoRA r 8", "2", "0.500"]
    assert rows["three"][1] == "train 43 %" and rows["three"][4:6] == ["3", "1.250"]
    assert rows["four"][1] == "failed" and "row 17: no | turn" in shown
    assert rows["base"][2] == "base" and "waits" not in rows
    asked = jobspec("results", "waits*", "--root", queue.paths.root).stdout
    assert "pending" in asked, "a job that is named is shown, even if it has not started"


def test_json_keeps_the_finished_runs_apart(queue: Queue) -> None:
    sweep(queue)
    found = jobspec_json("results", "--root", queue.paths.root)
    assert {row["name"] for row in found["results"]} == {"one", "two", "base"}
    others = {row["name"]: row for row in found["without_results"]}
    assert others.keys() == {"three", "four"}
    three = others["three"]
    assert (three["state"], three["phase"], three["progress"]) == ("running", "train", 0.43)
    assert (three["loss"], three["eval_loss"], three["settings"]["train.seed"]) == (1.25, None, 3)
    assert others["four"]["why"] == "failed: row 17: no | turn"
    assert found["differing"] == ["model.name", "training", "train.seed"]


def cells(markdown: str) -> list[list[str]]:
    """The cells of the table that a Markdown parser finds."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    found: list[list[str]] = []
    for before, token in itertools.pairwise(tokens):
        if before.type == "tr_open":
            found.append([])
        if before.type in ("th_open", "td_open"):
            inner = token.children or []
            found[-1].append("".join(each.content for each in inner))
    return found


def test_markdown_has_everything_and_is_valid(queue: Queue) -> None:
    sweep(queue)
    text = jobspec("results", "--markdown", "--root", queue.paths.root).stdout
    head, *rows = cells(text)
    assert head == [
        "model", "state", "lr", "training", "seed", "loss", "held-out", "math500", "aime24 avg@32",
        "job",
    ]  # fmt: skip
    assert len(rows) == 5 and all(len(row) == len(head) for row in rows)
    four = next(row for row in rows if row[-1].startswith("four-"))
    assert four[:3] == ["a|b", "failed", "1e-5"], "a pipe stays within its cell"
    one = next(row for row in rows if row[-1].startswith("one-"))
    assert one[5:8] == ["0.750", "1.000", "0.900 [0.88, 0.91]"]
    assert r"failed: row 17: no \| turn" in text, "what the terminal prints below rows"


def test_csv_has_states_losses_and_settings(queue: Queue) -> None:
    sweep(queue)
    text = jobspec("results", "--csv", "--root", queue.paths.root).stdout
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows.keys() == {"one", "two", "three", "four", "base"}
    assert (rows["two"]["state"], rows["two"]["loss"], rows["two"]["eval_loss"]) == (
        "succeeded", "0.5", "0.75",
    )  # fmt: skip
    assert rows["two"]["training"] == "LoRA r 8" and rows["three"]["train.seed"] == "3"
    assert rows["four"]["why"] == "failed: row 17: no | turn"
    assert rows["base"]["train.seed"] == "" and rows["one"]["bench/aime24/low"]


def test_latex_has_the_same_columns(queue: Queue) -> None:
    sweep(queue)
    text = jobspec("results", "--latex", "--root", queue.paths.root).stdout
    head = "Model & State & LR & Training & Seed & Loss & Held-out & Math500 & Aime24 avg@32"
    assert head in text
    assert r"a\textbar{}b & failed & 1e-5 & full & 4 &  &  &  &  \\" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    (align,) = re.findall(r"begin\{tabular\}\{([lr]+)\}", text)
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(align) - 1 for row in rows)
    finished = jobspec("results", "one", "two", "--latex", "--root", queue.paths.root).stdout
    assert "succeeded" not in finished, "a paper needs no state that all runs have"


def test_what_a_narrow_terminal_leaves_out_is_said(queue: Queue) -> None:
    sweep(queue)
    done = jobspec("results", "--root", queue.paths.root, COLUMNS="80")
    table = [line for line in done.stdout.splitlines() if not line.startswith("  ")]
    assert max(map(len, table)) <= 80 and "AIME24 AVG@32" in table[0]
    assert table[1].split()[:2] == ["Qwen3-8B", "done"], "shorter before something is left out"
    assert "[0.88, 0.91]" in table[1], "intervals stay as long as they can"
    assert "no room for seed, loss, held-out:" in done.stderr
    narrow = jobspec("results", "--root", queue.paths.root, COLUMNS="60")
    table = [line for line in narrow.stdout.splitlines() if not line.startswith("  ")]
    assert max(map(len, table)) <= 60 and "done" in table[1] and "[" not in table[1]
    assert "intervals: widen the terminal" in narrow.stderr
    assert "no room" not in jobspec("results", "--root", queue.paths.root, COLUMNS="200").stderr


def test_a_damaged_spec_hides_no_other_run(queue: Queue) -> None:
    finish(queue, trained("one", seed=1), 0.75)
    job = fail(queue, trained("two", seed=2), "no")
    job.paths.spec.chmod(0o644)  # it is read-only
    job.paths.spec.write_bytes(b"{")
    job.entry.path(queue.paths).write_bytes(b"{")
    shown = jobspec("results", "--root", queue.paths.root).stdout
    assert "one-" in shown and "two-" in shown
