"""Text that training would leave out refuses the data; rows of every format are prepared."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import DataError
from jobspec.storage.layout import RootPaths
from tests.support.models import CHATML
from tests.support.prepared import assistant, read_split, run_prepare, sums, user, write_rows
from tests.support.specs import train_spec, write_spec
from worker.data.pipeline import prepare
from worker.preview.overview import show_row


def with_fields(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{**row, **fields} for row in sums(count)]


def test_text_that_is_not_rendered_refuses_the_data_until_it_is_listed(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = [*sums(3), *with_fields(2, system="Be kind.", id="x"), *with_fields(40, note="n")]
    rows[4]["messages"] = [user("a"), assistant("b", thinking_content="why")]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    for _ in range(2):  # prepared, then read from the cache
        with pytest.raises(DataError) as caught:
            prepare(train_spec(model, data), root)
        assert caught.value.message == (
            "the chat template does not render the text of `note` in 40 rows, `system` in 2 rows, "
            "`thinking_content` in 1 row"
        )
        assert (caught.value.file, caught.value.place) == (str(data), "row 4")
    listed = ["note", "system", "thinking_content"]
    assert f"--set data.ignore_fields='{json.dumps(listed)}'" in str(caught.value.hint)
    with pytest.raises(DataError) as caught:
        prepare(train_spec(model, data, data__ignore_fields=["note"]), root)
    assert f"--set data.ignore_fields='{json.dumps(listed)}'" in str(caught.value.hint)
    report = prepare(train_spec(model, data, data__ignore_fields=listed), root)
    assert (report.rows_kept, report.unrendered) == (45, ())


def test_a_field_that_the_template_renders_is_no_loss(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    template = tmp_path / "t.jinja"
    template.write_text(CHATML.replace("(m.content or '')", "(m.mood or '') + (m.content or '')"))
    assert template.read_text() != CHATML
    rows = sums(20)
    rows[0]["messages"][0]["mood"] = "merry"
    made = train_spec(
        model,
        write_rows(tmp_path / "rows.jsonl", rows),
        model={"name": str(model), "chat_template": str(template)},
    )
    assert prepare(made, root).rows_kept == 20
    assert "merryWhat is" in show_row(made, root, 1).text
    rows[0]["messages"][1]["moods"] = "sad"
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="`moods` in 1 row"):
        prepare(made, root)
    assert show_row(made, root, 1).unrendered == ("moods",)


def test_rows_marked_as_not_trained_are_dropped_and_counted(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    marked = [{"messages": [user(f"{i}"), assistant("b", weight=0)]} for i in range(2)]
    data = write_rows(tmp_path / "rows.jsonl", [*sums(50), *marked])
    report = prepare(train_spec(model, data), root)
    assert (report.rows_kept, report.dropped) == (50, {"not_trained": 2})
    with pytest.raises(DataError, match=r"2 of 2 rows .*`weight` 0"):
        prepare(train_spec(model, write_rows(tmp_path / "rows.jsonl", marked)), root)


def as_sharegpt(row: dict[str, Any]) -> dict[str, Any]:
    asked, answered = (message["content"] for message in row["messages"])
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]
    return {"conversations": turns}


def as_prompt(row: dict[str, Any]) -> dict[str, Any]:
    asked, answered = (message["content"] for message in row["messages"])
    return {"prompt": asked, "completion": answered}


def as_alpaca(row: dict[str, Any]) -> dict[str, Any]:
    asked, answered = (message["content"] for message in row["messages"])
    return {"instruction": asked, "input": "", "output": answered}


FORMATS = {"sharegpt": as_sharegpt, "prompt_completion": as_prompt, "alpaca": as_alpaca}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_tokens(
    name: str, root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = sums(20)
    plain = prepare(train_spec(model, write_rows(tmp_path / "plain.jsonl", rows)), root)
    converted = write_rows(tmp_path / "other.jsonl", [FORMATS[name](row) for row in rows])
    packed = tmp_path / "rows.json"
    lines = converted.read_text().splitlines()
    packed.write_bytes(gzip.compress(f"[{', '.join(lines)}]".encode("utf-16")))
    made = train_spec(model, packed)
    report = prepare(made, root)
    for split in ("train", "eval"):
        assert read_split(root, report, split) == read_split(root, plain, split)
    shown = show_row(made, root, 3)
    assert shown.format == f"gzip, UTF-16, JSON array, rows in the format `{name}`"
    assert shown.supervised_text == "<think>Twice 2.</think>4<|im_end|>"
    with pytest.raises(DataError, match="20 of 20 rows"):
        prepare(train_spec(model, packed, data__format="messages"), root)


def test_a_directory_and_a_table_are_prepared_in_a_process_that_forks(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    """As the worker does: the copy is made first, then processes are forked, then rows written."""
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "a.jsonl", sums(12))
    (data / "b.jsonl.gz").write_bytes(
        gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in sums(20)[12:]))
    )
    file = write_spec(tmp_path / "spec.json", train_spec(model, data))
    checked = json.loads(run_prepare("--check", file, "--root", root.root).stdout)
    assert (checked["rows_in"], checked["dropped"]) == (20, {})
    assert not [path for path in root.prepared.iterdir() if path.name.startswith(".tmp")]
