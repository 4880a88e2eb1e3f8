"""Several files as one data set: shares, splits, errors, and the rows as they are written."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import DataError, SpecError
from jobspec.records.reports import PrepareReport
from jobspec.spec import rules
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import PreparedPaths, RootPaths
from tests.support.prepared import Rows, assistant, read_split, sums, user, write_rows
from tests.support.specs import job_spec
from worker.data import dataset_cache
from worker.data.pipeline import prepare
from worker.preview.overview import show_row


def mixed_spec(model: Path, *sources: dict[str, Any], **changes: Any) -> JobSpec:
    small = {"train": {"max_length": 1024}, "eval": {"benchmarks": ["aime24"]}}
    return job_spec(model, **{"data__sources": list(sources), **small, **changes})


def topic(count: int, name: str) -> Rows:
    """Rows with a prompt each that no other name has."""
    return [
        {"messages": [user(f"{name} {i}?"), assistant(f"<think>{i}.</think>{name}")]}
        for i in range(count)
    ]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """`a` of 40 rows, with a blank line in it, and `b` of 20 rows, compressed."""
    a = write_rows(tmp_path / "a.jsonl", topic(40, "a"))
    first, _, rest = a.read_text().partition("\n")
    a.write_text(f"{first}\n\n{rest}")
    b = tmp_path / "b.jsonl.gz"
    b.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in topic(20, "b")).encode()))
    return {"a": a, "b": b}


def table(root: RootPaths, report: PrepareReport, name: str) -> Counter[tuple[int, int]]:
    """How often each row (source, number in its file) is in a split."""
    return Counter((row["source"], row["row"]) for row in read_split(root, report, name))


def test_rows_are_written_as_often_as_they_are_trained_on(
    root: RootPaths, model: Path, files: dict[str, Path]
) -> None:
    spec = mixed_spec(model, {"path": files["a"], "repeat": 2}, {"path": files["b"], "name": "x"})
    report = prepare(spec, root)
    train, held_out = table(root, report, "train"), table(root, report, "eval")
    assert set(held_out.values()) == {1}
    assert {count for (source, _), count in train.items() if source == 0} == {2}
    assert {count for (source, _), count in train.items() if source == 1} == {1}
    numbers = {number for source, number in [*train, *held_out] if source == 0}
    assert numbers == set(range(1, 42)) - {2}  # the blank line
    assert {number for source, number in [*train, *held_out] if source == 1} == set(range(1, 21))
    assert (report.rows_in, report.rows_kept, report.rows_eval) == (60, 60, 3)
    assert report.rows_train == train.total() == report.train.rows

    first, second = report.sources
    assert (first.name, first.rows_in, first.repeat) == ("a", 40, 2.0)
    assert (second.name, second.rows_in, second.repeat) == ("x", 20, 1.0)
    rows = read_split(root, report, "train")
    for index, source in enumerate(report.sources):
        mine = [row for row in rows if row["source"] == index]
        assert source.train.rows == len(mine)
        assert source.train.tokens == sum(len(row["input_ids"]) for row in mine)
        assert source.train.trained_tokens == sum(
            label != -100 for row in mine for label in row["labels"]
        )
    prepared = PreparedPaths(root.root / report.dir)
    assert dataset_cache.read_sources(prepared.train) == [row["source"] for row in rows]
    assert sum(dataset_cache.read_counts(prepared.train)[0]) == report.train.tokens
    again = prepare(spec, root)
    assert again.cached and again.sources == report.sources


def test_weights_are_shares_of_an_epoch_and_no_row_is_left_out(
    root: RootPaths, model: Path, files: dict[str, Path]
) -> None:
    half = ({"path": files["a"], "weight": 1}, {"path": files["b"], "weight": 1})
    report = prepare(mixed_spec(model, *half, data__eval_split_ratio=0.0), root)
    assert [source.train.rows for source in report.sources] == [40, 40]
    assert [source.repeat for source in report.sources] == [1.0, 2.0]
    assert len(table(root, report, "train")) == 60


def test_a_repeat_below_one_samples_rows_and_held_out_rows_alike(
    root: RootPaths, model: Path, files: dict[str, Path]
) -> None:
    some = ({"path": files["a"], "repeat": 0.25}, {"path": files["b"], "repeat": 1.5})
    report = prepare(mixed_spec(model, *some, data__eval_split_ratio=0.2), root)
    assert [source.rows_selected for source in report.sources] == [10, 20]
    assert report.rows_eval == 6  # of 30
    assert report.sources[0].train.rows + report.sources[0].eval.rows == 10
    different = 20 - report.sources[1].eval.rows
    assert report.sources[1].train.rows == int(1.5 * different + 0.5)


def test_a_limit_keeps_the_shares(root: RootPaths, model: Path, files: dict[str, Path]) -> None:
    double = ({"path": files["a"]}, {"path": files["b"], "repeat": 2})
    report = prepare(mixed_spec(model, *double, data__max_train_samples=19), root)
    assert report.rows_train == 19
    assert [source.train.rows for source in report.sources] in ([9, 10], [10, 9])
    assert report.rows_selected < 20


def test_a_prompt_of_several_sources_is_on_one_side(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    shared = sums(30)
    files = [
        write_rows(tmp_path / f"{name}.jsonl", [*shared, *topic(10, name)]) for name in ("a", "b")
    ]
    sources = ({"path": files[0]}, {"path": files[1], "repeat": 3})
    report = prepare(mixed_spec(model, *sources, data__eval_split_ratio=0.3), root)
    train, held_out = table(root, report, "train"), table(root, report, "eval")
    for number in range(1, 31):
        assert ((0, number) in train) == ((1, number) in train)
        assert ((0, number) in held_out) == ((1, number) in held_out) != ((0, number) in train)
    assert set(held_out.values()) == {1}


def test_each_source_may_have_its_own_format(root: RootPaths, model: Path, tmp_path: Path) -> None:
    both = [
        {"prompt": f"p{i}", "completion": "c", "instruction": f"i{i}", "output": "o"}
        for i in range(9)
    ]
    file = write_rows(tmp_path / "rows.jsonl", both)
    other = write_rows(tmp_path / "other.jsonl", topic(9, "w"))
    ignored = ["prompt", "completion"]
    spec = mixed_spec(
        model,
        {"path": file, "format": "alpaca"},
        {"path": other},
        data__ignore_fields=ignored,
        data__max_dropped_frac=0.0,
    )
    assert prepare(spec, root).rows_kept == 18
    wrong = mixed_spec(
        model, {"path": other}, {"path": file, "format": "sharegpt"}, data__ignore_fields=ignored
    )
    with pytest.raises(DataError, match="`conversations` is not a list") as caught:
        prepare(wrong, root)
    assert (caught.value.file, caught.value.place) == (str(file), "row 1")


def broken(kind: str) -> dict[str, Any]:
    return {
        "malformed": {"messages": [user("a")]},
        "nan": {"messages": [user("q"), assistant("a")], "score": float("nan")},
        "unrendered": {"messages": [user("q"), assistant("a", thinking_content="lost")]},
    }[kind]


@pytest.mark.parametrize("kind", ["malformed", "nan", "unrendered"])
def test_errors_name_the_file_and_the_row_in_it(
    kind: str, root: RootPaths, model: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [*topic(6, "z"), broken(kind), *topic(9, "y")])
    spec = mixed_spec(
        model, {"path": files["a"]}, {"path": files["b"]}, {"path": bad}, data__max_dropped_frac=0.0
    )
    with pytest.raises(DataError) as caught:
        prepare(spec, root)
    assert (caught.value.file, caught.value.place) == (str(bad), "row 7")


def test_each_source_may_drop_only_its_share_of_rows(
    root: RootPaths, model: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    bad = write_rows(
        tmp_path / "bad.jsonl", [broken("malformed"), broken("malformed"), *topic(2, "z")]
    )
    settings = {"data__max_dropped_frac": 0.2}
    with pytest.raises(DataError, match="2 of 4 rows can't be used") as caught:
        prepare(mixed_spec(model, {"path": files["a"]}, {"path": bad}, **settings), root)
    assert (caught.value.file, caught.value.place) == (str(bad), "row 1")
    settings["data__max_dropped_frac"] = 0.5
    report = prepare(mixed_spec(model, {"path": files["a"]}, {"path": bad}, **settings), root)
    (first,) = report.first_dropped
    assert (first.source, first.row, first.kind) == ("bad", 1, "malformed")
    assert [source.dropped for source in report.sources] == [{}, {"malformed": 2}]


def test_a_source_of_which_nothing_is_left_to_train_on_is_refused(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = sums(2)
    files = [write_rows(tmp_path / f"{n}.jsonl", [row]) for n, row in enumerate(rows)]
    spec = mixed_spec(model, *({"path": file} for file in files), data__eval_split_ratio=0.5)
    with pytest.raises(DataError, match="none of its 1 rows is left to train on") as caught:
        prepare(spec, root)
    assert caught.value.file in map(str, files)
    assert caught.value.hint


def test_wrong_files_are_named_with_their_place_in_the_spec(
    root: RootPaths, model: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n\n")
    zipped = tmp_path / "rows.zip"
    zipped.write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "nothing").mkdir()
    changed = {"path": files["b"], "sha256": "0" * 64}
    wrong = [
        ({"path": tmp_path / "none"}, "path"),
        ({"path": blank}, "path"),
        ({"path": zipped}, "path"),
        ({"path": tmp_path / "nothing"}, "path"),
        (changed, "sha256"),
    ]
    for source, field in wrong:
        with pytest.raises(DataError) as caught:
            prepare(mixed_spec(model, {"path": files["a"]}, source), root)
        assert caught.value.file == str(source["path"])
        assert caught.value.place == f"$.data.sources[1].{field}"


def test_what_changes_the_mixture_changes_the_key(
    root: RootPaths, model: Path, files: dict[str, Path]
) -> None:
    a, b = {"path": files["a"]}, {"path": files["b"]}
    mixes = [
        (a, b),
        (b, a),
        (a, b | {"repeat": 2}),
        (a | {"weight": 1}, b | {"weight": 2}),
        (a | {"weight": 1}, b | {"weight": 3}),
        (a, b | {"name": "other"}),
        (a, b | {"format": "messages"}),
    ]
    assert len({prepare(mixed_spec(model, *each), root).key for each in mixes}) == len(mixes)


def test_a_row_of_any_source_can_be_shown(
    root: RootPaths, model: Path, files: dict[str, Path]
) -> None:
    spec = mixed_spec(model, {"path": files["a"]}, {"path": files["b"]})
    assert "a 0?" in show_row(spec, root, 1).text
    shown = show_row(spec, root, 3, "b")
    assert "b 2?" in shown.text and "gzip" in shown.format
    with pytest.raises(DataError, match="no source `c`") as caught:
        show_row(spec, root, 1, "c")
    assert caught.value.hint == "its sources are a, b"
    with pytest.raises(DataError, match="has no row 21"):
        show_row(spec, root, 21, "b")


def test_a_spec_with_wrong_sources_is_refused(model: Path) -> None:
    def refused(*sources: dict[str, Any], **data: Any) -> tuple[str | None, str]:
        spec = job_spec(model, data={"sources": list(sources), **data}, train={})
        with pytest.raises(SpecError) as caught:
            rules.check(spec)
        assert caught.value.hint
        return caught.value.place, caught.value.message

    one, two = {"path": "a.jsonl"}, {"path": "b.jsonl"}
    assert refused() == ("$.data", "needs `path` or `sources`; neither is given")
    assert refused(one, path="c") == ("$.data", "needs `path` or `sources`; both are given")
    assert refused(one, sha256="0" * 64)[0] == "$.data.sha256"
    assert refused(one, two | {"weight": 1})[0] == "$.data.sources[0]"
    assert refused(one | {"weight": 1, "repeat": 2})[0] == "$.data.sources[0]"
    assert refused(one, two | {"name": "a"})[0] == "$.data.sources[1].name"
    assert refused(one, {"path": "other/a.jsonl.gz"})[0] == "$.data.sources[1].name"
    assert refused(one, one | {"name": "again"})[0] == "$.data.sources[1].path"
    assert refused(one | {"name": "a\n"})[0] == "$.data.sources[0].name"
    rules.check(job_spec(model, data={"sources": [one, two | {"repeat": 0.5}]}, train={}))


def test_a_source_may_be_a_directory(
    root: RootPaths, model: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    place = tmp_path / "rows"
    place.mkdir()
    for name in ("x", "y"):
        write_rows(place / f"{name}.jsonl", topic(5, name))
    spec = mixed_spec(model, {"path": files["a"]}, {"path": place, "repeat": 2})
    assert [source.rows_in for source in prepare(spec, root).sources] == [40, 10]
    write_rows(place / "y.jsonl", [*topic(1, "y"), broken("nan"), *topic(2, "y")])
    with pytest.raises(DataError) as caught:
        prepare(spec, root)
    assert (caught.value.file, caught.value.place) == (str(place / "y.jsonl"), "row 2")
