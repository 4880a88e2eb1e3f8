"""`jobspec preview`: a row with its trained part marked, and the overview of all rows as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.cli.preview import overview_lines, row_lines
from jobspec.records.mixture import SourceReport, TokenCounts
from jobspec.records.overview import DataOverview, Duplicates, HistogramBin, NearDuplicate
from jobspec.records.reports import DroppedRow, Overlap, RowReport
from tests.support.commands import jobspec, jobspec_json

ROW = '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}\n'
SHOWN: dict[str, Any] = {
    "schema": 1,
    "row": 2,
    "format": "UTF-8, JSON lines, rows in the format `messages`",
    "unrendered": ["note"],
    "text": "<|user|>2+2?<|assistant|>4</s>\n",
    "input_ids": [1, 2, 3],
    "labels": [-100, 2, 3],
    "supervised_text": "4</s>",
    "dropped": None,
}
OVERVIEW = DataOverview(
    conversations=398,
    malformed=2,
    rows=RowReport(
        rows_in=400,
        rows_train=370,
        rows_eval=20,
        dropped={"malformed": 2, "over_long": 8},
        over_long_tokens=90_123,
        first_dropped=(DroppedRow(row=9, kind="over_long", reason="9000 tokens are too many"),),
        prompts=219,
        tokens=753_342,
        trained_tokens=682_110,
    ),
    max_length=8192,
    unit="tokens",
    lengths=(
        HistogramBin(least=256, most=511, rows=1),
        HistogramBin(least=512, most=1023, rows=300),
        HistogramBin(least=1024, most=2047, rows=0),
        HistogramBin(least=2048, most=4095, rows=89),
    ),
    duplicates=Duplicates(
        exact_rows=2,
        exact_examples=((17, 3), (40, 3)),
        near_rows=1,
        near_examples=(NearDuplicate(row=18, earlier=4, similarity=0.93),),
        compared=398,
    ),
    overlap={
        "aime24": Overlap(
            questions=30, judged=30, questions_found=1, rows_found=2, examples=(("I-3", 7),)
        ),
        "aime25": Overlap(questions=30, judged=30, questions_found=0, rows_found=0),
        "gsm8k": None,
    },
    refused="rows.jsonl, row 7: contains question `I-3`",
)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text(ROW * 3)
    return tmp_path / jobspec("new", "--model", "a/b", cwd=tmp_path).stdout.strip()


def image(place: Path, answer: dict[str, Any]) -> dict[str, str]:
    """A program that stands for an image and prints an answer of `worker.preview`."""
    file = place / "image"
    file.write_text(f"#!/bin/sh\ncat <<'E'\n{json.dumps(answer)}\nE\n")
    file.chmod(0o755)
    return {"JOBSPEC_WORKER_COMMAND": str(file)}


def as_json(overview: DataOverview) -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(overview))


def test_of_a_spec_that_trains_nothing(tmp_path: Path) -> None:
    made = jobspec("new", "--model", "a/b", "--no-train", cwd=tmp_path).stdout.strip()
    done = jobspec("preview", made, cwd=tmp_path, code=1)
    assert "there is no row to show" in done.stderr


def test_a_row_alone_has_its_trained_part_marked(spec: Path, tmp_path: Path) -> None:
    env = image(tmp_path, SHOWN)
    done = jobspec("preview", spec, "--row", "2", cwd=tmp_path, **env)
    assert done.stdout == "<|user|>2+2?<|assistant|>\n>>> trained\n4</s>\n<<< trained\n"
    assert "3 tokens, 2 trained" in done.stderr
    assert SHOWN["format"] in done.stderr and "`note` carries text" in done.stderr
    assert jobspec_json("preview", spec, "--row", "2", cwd=tmp_path, **env) == SHOWN


def test_all_rows_are_shown_after_the_first_and_fit_the_terminal(
    spec: Path, tmp_path: Path
) -> None:
    answer = {**SHOWN, "overview": as_json(OVERVIEW)}
    env = image(tmp_path, answer)
    done = jobspec("preview", spec, cwd=tmp_path, COLUMNS="80", **env)
    _, _, shown = done.stdout.partition("<<< trained\n\n")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("400 rows: 370 to train on, 20 held out, 10 dropped")
    assert "2 malformed, 8 over long" in " ".join(lines[:2])
    assert "8 rows longer than max_length 8,192, with 90,123 tokens: dropped, never" in shown
    bars = [line for line in lines if "–" in line]
    assert [len(line) for line in bars] == [22 + 1, 80, 20, 22 + 17]
    assert "exact duplicates: 2 repeat an earlier row: 17 = 3, 40 = 3" in lines
    assert "near duplicates: 1 repeats an earlier row: 18 ≈ 4 (93%); 398 rows compared" in lines
    assert "benchmark aime24: 2 rows with 1 of 30 questions: row 7: I-3" in lines
    assert "benchmark aime25: none of 30 questions found" in lines
    assert "benchmark gsm8k: not searched for, its questions are not here" in lines
    assert "enqueue will refuse this data: rows.jsonl, row 7" in done.stderr
    assert jobspec_json("preview", spec, cwd=tmp_path, **env) == answer


def test_without_a_tokenizer_characters_are_shown(spec: Path, tmp_path: Path) -> None:
    bare = DataOverview(
        conversations=3,
        malformed=1,
        not_tokenized="the model is not here",
        lengths=(HistogramBin(least=0, most=9, rows=3),),
    )
    env = image(tmp_path, {**SHOWN, "text": "", "overview": as_json(bare)})
    done = jobspec("preview", spec, cwd=tmp_path, **env)
    assert done.stdout.splitlines()[1:3] == ["3 rows, 1 malformed", ""]
    assert "characters per row" in done.stdout
    assert "near duplicates: not searched for, because numpy is missing here" in done.stdout
    assert "rows can't be shown as trained here: the model is not here" in done.stderr


def test_rows_of_a_mixture_are_named_by_their_source() -> None:
    mixed = msgspec.structs.replace(OVERVIEW, sources=(("chat", 0), ("math", 17)))
    lines = list(overview_lines(mixed))
    pairs = "17 of chat = 3 of chat, 23 of math = 3 of chat"
    assert f"exact duplicates: 2 repeat an earlier row: {pairs}" in lines
    assert any("1 of math ≈ 4 of chat (93%)" in line for line in lines)
    assert any("row 7 of chat: I-3" in line for line in lines)


def test_where_nothing_is_wrong_it_says_so() -> None:
    sound = DataOverview(
        conversations=3,
        malformed=0,
        rows=RowReport(rows_in=3, rows_train=3, tokens=30, trained_tokens=10),
        max_length=64,
        duplicates=Duplicates(near_rows=0, compared=3),
    )
    lines = list(overview_lines(sound))
    assert "no row is longer than max_length 64; nothing is truncated" in lines
    assert "exact duplicates: none" in lines
    assert "near duplicates: none; 3 rows compared" in lines


def test_rows_are_counted_by_source() -> None:
    report = RowReport(
        rows_in=60,
        rows_train=105,
        rows_eval=3,
        first_dropped=(DroppedRow(row=9, kind="malformed", reason="no role", source="math"),),
        sources=(
            SourceReport(name="chat", rows_in=40, train=TokenCounts(rows=38, trained_tokens=4100)),
            SourceReport(
                name="math",
                rows_in=20,
                dropped={"malformed": 1},
                repeat=3.53,
                train=TokenCounts(rows=67, trained_tokens=900),
                eval=TokenCounts(rows=1),
            ),
        ),
    )
    assert row_lines(report)[1:] == [
        "source chat: 40 rows: 38 to train on, 0 held out; 4,100 trained tokens in an epoch",
        "source math: 20 rows, each 3.53 times: 67 to train on, 1 held out, 1 dropped; "
        "900 trained tokens in an epoch",
        "row 9 of math, dropped as malformed: no role",
    ]
