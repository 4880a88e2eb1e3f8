"""The prepare phase: its files, its cache, its splits, and everything it refuses."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from preparekit import CHATML, OPENING, ROOT, assistant, model_dir, spec, user, write_rows

from jobspec import spec as specs
from jobspec.errors import DataError, ModelError, SpecError, TemplateError
from jobspec.paths import JobPaths, RootPaths
from jobspec.spec import JobSpec
from worker import overlap, split
from worker.prepare import prepare, preview
from worker.reading import Scan
from worker.rows import IGNORED

Rows = list[dict[str, Any]]


def sums(count: int, *, answers: int = 1) -> Rows:
    """`answers` rows a question, with thinking."""
    return [
        {
            "messages": [
                user(f"What is {i} + {i}?"),
                assistant(f"<think>Twice {i}.</think>{2 * i}{'!' * k}"),
            ]
        }
        for i in range(count)
        for k in range(answers)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_dir(tmp_path_factory.mktemp("models") / "bytes")


@pytest.fixture(scope="module")
def kept_tokenizers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that has asked Transformers about the model already: that takes seconds."""
    base = tmp_path_factory.mktemp("asked")
    prepare(spec(model, write_rows(base / "rows.jsonl", sums(2))), RootPaths(base / "root"))
    return base / "root" / "cache" / "tokenizers"


@pytest.fixture
def root(tmp_path: Path, kept_tokenizers: Path) -> RootPaths:
    shutil.copytree(kept_tokenizers, tmp_path / "root" / "cache" / "tokenizers")
    return RootPaths(tmp_path / "root")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", sums(40))


def run_prepare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "worker.prepare", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def run_code(code: str, *arguments: str | Path) -> str:
    """What a Python program of its own prints; warnings are errors there too."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def wait_for(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


def write_spec(path: Path, made: JobSpec) -> Path:
    path.write_bytes(specs.canonical(made))
    return path


def attempt_of(root: RootPaths, made: JobSpec) -> Path:
    """A job's first attempt, as the worker makes it."""
    bytes_ = specs.canonical(made)
    job = JobPaths(root.jobs / specs.job_id(made.name, bytes_))
    job.attempt(1).dir.mkdir(parents=True)
    job.spec.write_bytes(bytes_)
    return job.attempt(1).dir


def read_split(root: RootPaths, report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    import datasets

    return datasets.load_from_disk(str(root.root / report["dir"] / name)).to_list()


# --- the phase


def test_the_phase_leaves_rows_and_a_report(root: RootPaths, model: Path, data: Path) -> None:
    import datasets

    attempt = attempt_of(root, spec(model, data))
    done = run_prepare(attempt)
    assert done.returncode == 0, done.stderr
    report = json.loads((attempt / "prepare.json").read_text())
    counts = {key: report[key] for key in ("rows_in", "rows_train", "rows_eval", "dropped")}
    assert counts == {"rows_in": 40, "rows_train": 38, "rows_eval": 2, "dropped": {}}
    assert report["inference_chat_template"].strip() == CHATML.strip()
    directory = root.root / report["dir"]
    assert names(directory) == ["eval", "prepared.json", "train"]
    train = datasets.load_from_disk(str(directory / "train"))
    ids = datasets.List(datasets.Value("int32"))
    assert train.features == {"input_ids": ids, "labels": ids, "row": datasets.Value("int64")}
    rows = [*read_split(root, report, "train"), *read_split(root, report, "eval")]
    assert sorted(row["row"] for row in rows) == list(range(1, 41))
    assert sum(len(row["input_ids"]) for row in rows) == report["tokens"]
    trained = sum(label != IGNORED for row in rows for label in row["labels"])
    assert trained == report["trained_tokens"]
    assert report["train"]["tokens"] + report["eval"]["tokens"] == report["tokens"]
    for row in rows:
        shown = preview(spec(model, data), root, row["row"])
        assert (shown["input_ids"], shown["labels"]) == (row["input_ids"], row["labels"])


def test_a_spec_edited_after_enqueue_is_refused(root: RootPaths, model: Path, data: Path) -> None:
    attempt = attempt_of(root, spec(model, data))
    job = JobPaths(attempt.parent.parent)
    job.spec.write_bytes(job.spec.read_bytes().replace(b'"notes": ""', b'"notes": "!"'))
    done = run_prepare(attempt)
    assert done.returncode == 3
    assert "edited after enqueue" in json.loads((attempt / "error.json").read_text())["message"]
    assert not root.prepared.exists()


def test_check_and_preview_print_json_alone(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", spec(model, data))
    checked = json.loads(run_prepare("--check", file, "--root", root.root).stdout)
    assert (checked["schema"], checked["rows_in"], checked["cached"]) == (1, 40, False)
    shown = json.loads(run_prepare("--preview", file, "--row", "3", "--root", root.root).stdout)
    assert shown["supervised_text"] == "<think>Twice 2.</think>4<|im_end|>"
    assert shown["text"].startswith("<|im_start|>user\nWhat is 2 + 2?<|im_end|>")
    assert len(shown["input_ids"]) == len(shown["labels"])
    assert (shown["schema"], shown["row"], shown["dropped"]) == (1, 3, None)


def test_a_refusal_is_json_with_place_and_hint_and_exit_code_3(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(20))
    rows.write_text(rows.read_text().replace("\n", "\n{\n", 17).replace("\n{\n", "\n", 16))
    file = write_spec(tmp_path / "spec.json", spec(model, rows))
    done = run_prepare("--check", file, "--root", root.root)
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["message"].startswith("not valid JSON")
    assert (error["file"], error["place"]) == (str(rows), "row 18")
    assert error["hint"]


def test_what_a_models_own_code_prints_is_not_taken_for_the_answer(
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
    made = spec(model, data, model={"name": str(model), "trust_remote_code": True})
    done = run_prepare("--check", write_spec(tmp_path / "spec.json", made), "--root", root.root)
    assert json.loads(done.stdout)["rows_in"] == 40
    assert "hello" in done.stderr


def test_preview_of_a_dropped_row_says_why(root: RootPaths, model: Path, tmp_path: Path) -> None:
    rows = [*sums(1), {"messages": [user("a"), assistant("<think>b")]}]
    made = spec(model, write_rows(tmp_path / "rows.jsonl", rows))
    shown = preview(made, root, 2)
    assert shown["dropped"].startswith("unclosed_thinking: ")
    assert shown["text"].endswith("<think>b<|im_end|>\n")
    assert shown["labels"] == []
    for number in (0, 3):
        with pytest.raises(DataError, match=f"no row {number}"):
            preview(made, root, number)


# --- the cache


def test_prepared_rows_are_found_again_without_any_heavy_import(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", spec(model, data))
    assert not json.loads(run_prepare("--check", file, "--root", root.root).stdout)["cached"]
    other = spec(model, data, name="other", train__learning_rate=1e-6, data__max_dropped_frac=0.5)
    attempt = attempt_of(root, other)
    code = (
        "import sys\n"
        "from worker import prepare\n"
        "from worker.phase import Phase\n"
        "prepare.body(Phase('prepare', sys.argv[1]))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_code(code, attempt) == "[]\n"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: what else this machine does must not decide.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert json.loads((attempt / "prepare.json").read_text())["cached"]
    assert min(seconds) < 0.5


def test_tokenizing_does_not_import_torch_either(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", spec(model, data))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from jobspec import spec\n"
        "from jobspec.paths import RootPaths\n"
        "from worker.prepare import prepare\n"
        "prepare(spec.load(sys.argv[1]), RootPaths(Path(sys.argv[2])))\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))\n"
    )
    assert run_code(code, file, root.root) == "[]\n"


CHANGES = {
    "max_length": {"train__max_length": 512},
    "seed": {"train__seed": 1},
    "split": {"data__eval_split_ratio": 0.2},
    "samples": {"data__max_train_samples": 7},
    "require_think": {"data__require_think": True},
    "think end": {"eval__think_end_token": "[/THINK]"},
    "template variables": {"eval__chat_template_kwargs": {"enable_thinking": True}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_rows_changes_the_key(
    change: str, root: RootPaths, model: Path, data: Path
) -> None:
    first = prepare(spec(model, data), root)
    assert prepare(spec(model, data), root)["cached"]
    second = prepare(spec(model, data, **CHANGES[change]), root)
    assert not second["cached"]
    assert second["key"] != first["key"]


def test_other_data_template_or_tokenizer_is_another_key(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    keys = {prepare(spec(model, data), root)["key"]}
    template = tmp_path / "other.jinja"
    template.write_text(CHATML + "\n{# other #}")
    named = spec(model, data, model={"name": str(model), "chat_template": str(template)})
    keys.add(prepare(named, root)["key"])
    keys.add(prepare(spec(model_dir(tmp_path / "m", eos_token_id=1), data), root)["key"])
    with data.open("a") as file:
        file.write("\n")
    keys.add(prepare(spec(model, data), root)["key"])
    assert len(keys) == 4


@pytest.mark.parametrize("damage", ["truncated", "removed", "report gone"])
def test_rows_a_purge_took_parts_of_are_made_again(
    damage: str, root: RootPaths, model: Path, data: Path
) -> None:
    report = prepare(spec(model, data), root)
    directory = root.root / report["dir"]
    arrow = directory / "train" / "data-00000-of-00001.arrow"
    whole = arrow.read_bytes()
    if damage == "truncated":
        os.truncate(arrow, len(whole) - 1)
    else:
        (arrow if damage == "removed" else directory / "prepared.json").unlink()
    again = prepare(spec(model, data), root)
    assert (again["cached"], again["key"]) == (False, report["key"])
    assert arrow.read_bytes() == whole
    assert prepare(spec(model, data), root)["cached"]


def test_many_at_once_make_one_directory(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", spec(model, data))
    command = [sys.executable, "-m", "worker.prepare", "--check", str(file)]
    started = [
        subprocess.Popen([*command, "--root", str(root.root)], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert len({answer["key"] for answer in answers}) == 1
    assert names(root.prepared) == [answers[0]["key"]]
    assert len(read_split(root, answers[0], "train")) == 38


def test_killed_in_the_middle_it_leaves_nothing_under_the_key(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(20_000))
    file = write_spec(tmp_path / "spec.json", spec(model, rows))
    command = [sys.executable, "-m", "worker.prepare", "--check", str(file)]
    with subprocess.Popen([*command, "--root", str(root.root)], cwd=ROOT) as process:
        try:
            wait_for(lambda: list(root.prepared.glob(".tmp-*/piece-*")))
        finally:
            process.kill()
    left = names(root.prepared)
    assert left
    assert all(name.startswith(".") for name in left)
    # Its pool dies with it, so that the next one may take what it left for abandoned.
    report = json.loads(run_prepare("--check", file, "--root", root.root).stdout)
    assert report["rows_in"] == 20_000
    assert names(root.prepared) == [report["key"]]


def test_a_full_disk_leaves_nothing(model: Path, kept_tokenizers: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(3000))
    file = write_spec(tmp_path / "spec.json", spec(model, rows))
    mount = tmp_path / "full"
    mount.mkdir()
    size = 200_000 + sum(path.stat().st_size for path in kept_tokenizers.iterdir())
    script = (
        f"mount -t tmpfs -o size={size} none {mount} || exit 99; mkdir -p {mount}/cache; "
        f"cp -r {kept_tokenizers} {mount}/cache/tokenizers; "
        f"{sys.executable} -m worker.prepare --check {file} --root {mount}; code=$?; "
        f"ls -A {mount}/cache/prepared >&2; exit $code"
    )
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here, which makes a small filesystem")
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in (1, 99) and not done.stdout:
        pytest.skip(f"no private mount here: {done.stderr.strip()}")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["error"]["message"] == "no space left"
    assert done.stderr == ""


def test_a_root_that_takes_nothing_is_named(model: Path, kept_tokenizers: Path) -> None:
    """Run as nobody, where the tests run as root, whom nothing is forbidden."""
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from jobspec import spec\nfrom jobspec.paths import RootPaths\n"
        "from worker import prepare\n"
        "prepare.Inputs.of(spec.load(sys.argv[2]), RootPaths(Path(sys.argv[4])))\n"
        "if os.geteuid() == 0:\n    os.seteuid(65534)\n"
        "prepare.main()"
    )
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        shutil.copytree(kept_tokenizers, base / "root" / "cache" / "tokenizers")
        shutil.copytree(model, base / "model")
        rows = write_rows(base / "rows.jsonl", sums(3))
        file = write_spec(base / "spec.json", spec(base / "model", rows))
        for path in (base, base / "root", base / "root" / "cache"):
            path.chmod(0o555)
        command = [sys.executable, "-c", code, "--check", str(file), "--root", str(base / "root")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        for path in (base, base / "root", base / "root" / "cache"):
            path.chmod(0o755)
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["message"].startswith("not writable: ")
    assert error["file"] == str(base / "root")
    assert error["hint"]


# --- the same rows however they are cut


def test_chunks_and_processes_change_nothing(root: RootPaths, model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(300, answers=2))
    made = spec(model, rows)
    assert len(Scan.of(rows).chunks) == 1
    whole = prepare(made, root)
    tables = [read_split(root, whole, name) for name in ("train", "eval")]
    shutil.rmtree(root.prepared)
    code = (
        "import worker.reading as reading\n"
        "reading._MIN_BYTES, reading._CHUNKS = 1000, 10_000\n"
        "from worker import prepare\n"
        "prepare.main()"
    )
    asked = ["--check", str(write_spec(tmp_path / "spec.json", made)), "--root", str(root.root)]
    cut = json.loads(run_code(code, *asked))
    assert cut.pop("passes")["unpacked"] == whole["rows_train"]  # `--check` alone counts these
    assert cut.pop("longest_micro_batch") >= cut["tokens"] / cut["rows_in"]
    assert [read_split(root, cut, name) for name in ("train", "eval")] == tables
    differ = ("schema", "seconds", "cached", "file_sizes")
    whole = json.loads(json.dumps(whole))
    assert {k: v for k, v in cut.items() if k not in differ} == {
        k: v for k, v in whole.items() if k not in differ
    }


POOL = """
from worker import pool
from jobspec.errors import DataError
def fail(item):
    if item >= 20:
        raise DataError("bad", place=f"row {item}")
    return item
assert list(pool.in_order(str, range(50), processes=3)) == [str(i) for i in range(50)]
results = pool.in_order(fail, range(50), processes=3)
assert [next(results) for _ in range(20)] == list(range(20))
try:
    next(results)
except DataError as error:
    print(error.place, error.message)
"""


def test_the_pool_keeps_order_and_raises_the_first_error() -> None:
    assert run_code(POOL) == "row 20 bad\n"


def test_the_pool_dies_with_the_process_that_made_it() -> None:
    code = (
        "import os, sys, time\n"
        "from worker import pool\n"
        "def work(item):\n    os.write(1, b'%d\\n' % os.getpid())\n    time.sleep(60 * item)\n"
        "list(pool.in_order(work, [1, 1], processes=2))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        children = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
    wait_for(lambda: not any(is_alive(child) for child in children), 20)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_blank_lines_and_windows_line_ends_are_no_rows(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    lines = [json.dumps(one) for one in sums(3)]
    file = tmp_path / "rows.jsonl"
    file.write_bytes("\r\n".join(["", lines[0], "  ", lines[1], lines[2]]).encode())
    report = prepare(spec(model, file, data__eval_split_ratio=0), root)
    assert report["rows_in"] == 3
    assert [row["row"] for row in read_split(root, report, "train")] == [2, 4, 5]


# --- splits


def test_rows_of_one_prompt_stay_together(root: RootPaths, model: Path, tmp_path: Path) -> None:
    rows = sums(30, answers=4)
    made = spec(model, write_rows(tmp_path / "rows.jsonl", rows), data__eval_split_ratio=0.2)
    report = prepare(made, root)
    assert (report["rows_train"], report["rows_eval"]) == (96, 24)
    assert (report["prompts"], report["prompts_eval"]) == (30, 6)
    sides = [
        {rows[row["row"] - 1]["messages"][0]["content"] for row in read_split(root, report, name)}
        for name in ("train", "eval")
    ]
    assert not sides[0] & sides[1]


def test_the_split_is_seeded_and_never_empty_on_either_side() -> None:
    prompts = [bytes([i % 20]) for i in range(100)]
    assert split.held_out(prompts, 0.05, 1) == split.held_out(reversed(prompts), 0.05, 1)
    assert len({frozenset(split.held_out(prompts, 0.05, seed)) for seed in range(20)}) > 5
    assert split.held_out(prompts, 0, 1) == set()
    assert split.held_out([b"a"] * 9, 0.5, 1) == set()
    assert len(split.held_out([b"a"] * 99 + [b"b"], 0.001, 1)) == 1
    assert len(split.held_out([b"a", b"b"], 0.5, 1)) == 1
    assert len(split.held_out([b"a", b"a", b"b"], 0.9, 1)) == 1
    for seed in range(20):
        held = split.held_out(prompts, 0.25, seed)
        assert sum(prompt in held for prompt in prompts) == 25


def test_some_samples_are_the_same_ones_wherever_they_stand(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = sums(200)
    taken = []
    for name, ordered in (("a", rows), ("b", rows[::-1])):
        file = write_rows(tmp_path / f"{name}.jsonl", ordered)
        report = prepare(spec(model, file, data__max_train_samples=19), root)
        assert report["rows_in"] == 200
        assert report["rows_selected"] == 20
        assert (report["rows_train"], report["rows_eval"]) == (19, 1)
        picked = [ordered[row["row"] - 1] for row in read_split(root, report, "train")]
        taken.append({json.dumps(row) for row in picked})
    assert taken[0] == taken[1]


def test_one_prompt_alone_is_not_trained_beyond_the_samples_asked_for(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(1, answers=50))
    report = prepare(spec(model, rows, data__max_train_samples=19), root)
    assert (report["rows_selected"], report["rows_kept"]) == (20, 19)
    assert (report["rows_train"], report["rows_eval"], report["prompts"]) == (19, 0, 1)
    assert len(read_split(root, report, "train")) == 19
    assert report["tokens"] == report["train"]["tokens"]


def test_malformed_rows_are_found_among_those_not_taken(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [*sums(20), {"messages": [user("a")]}])
    with pytest.raises(DataError, match="no final assistant turn") as caught:
        prepare(spec(model, file, data__max_train_samples=1), root)
    assert caught.value.place == "row 21"
    assert names(root.prepared) == []


# --- dropped rows


def long_rows(count: int) -> Rows:
    return [{"messages": [user(f"{i}"), assistant("x" * 2000)]} for i in range(count)]


def test_over_long_rows_are_dropped_whole_and_counted(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = [*sums(50), *long_rows(2)]
    report = prepare(spec(model, write_rows(tmp_path / "rows.jsonl", rows)), root)
    assert report["dropped"] == {"over_long": 2}
    assert report["rows_kept"] == 50
    assert report["rows_without_thinking"] == 0
    kept = [*read_split(root, report, "train"), *read_split(root, report, "eval")]
    assert max(len(row["input_ids"]) for row in kept) < 100
    assert report["length_percentiles"]["max"] > 2000
    (first,) = report["first_dropped"]
    assert (first["row"], first["kind"]) == (51, "over_long")


def test_too_many_dropped_rows_stop_the_job_and_name_the_first(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    unclosed = {"messages": [user("why?"), assistant("<think>no end")]}
    rows = write_rows(tmp_path / "rows.jsonl", [*sums(50), unclosed, *long_rows(2)])
    for _ in range(2):  # made, and found on the shelf
        with pytest.raises(DataError) as caught:
            prepare(spec(model, rows), root)
        message = caught.value.message
        assert "3 of 53 rows can't be trained on (over_long: 2, unclosed_thinking: 1)" in message
        assert "<|im_start|>assistant\n<think>no end<|im_end|>" in message
        assert (caught.value.file, caught.value.place) == (str(rows), "row 51")
        assert "max_dropped_frac 0.05" in str(caught.value.hint)
    allowed = prepare(spec(model, rows, data__max_dropped_frac=0.1), root)
    assert allowed["cached"]
    assert allowed["rows_kept"] == 50


def test_a_template_that_fits_no_row_is_the_templates_error(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    template = tmp_path / "non_thinking.jinja"
    template.write_text(OPENING.replace("<think>'", r"<think>\n\n</think>\n\n'"))
    rows = write_rows(tmp_path / "rows.jsonl", sums(20))
    named = {"name": str(model), "chat_template": str(template)}
    with pytest.raises(TemplateError) as caught:
        prepare(spec(model, rows, model=named, data__max_dropped_frac=1), root)
    assert "20 of 20 rows" in caught.value.message
    assert "is not a prefix" in caught.value.message
    assert caught.value.place == "row 1"


def test_all_rows_dropped_is_an_error_whatever_is_allowed(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", long_rows(3))
    with pytest.raises(DataError, match="3 of 3 rows"):
        prepare(spec(model, rows, data__max_dropped_frac=1), root)


def test_whether_the_end_of_thinking_occurs_is_told(
    root: RootPaths, model: Path, data: Path
) -> None:
    report = prepare(spec(model, data), root)
    assert (report["rows_with_think_end_token"], report["think_end_in_template"]) == (40, True)
    report = prepare(spec(model, data, eval__think_end_token="[/THINK]"), root)
    assert (report["rows_with_think_end_token"], report["think_end_in_template"]) == (0, False)
    assert report["rows_without_thinking"] == 40


def test_the_prompt_is_the_one_met_at_inference(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    """`eval.chat_template_kwargs` reach the template here too."""
    template = tmp_path / "mode.jinja"
    template.write_text("{{ '<|im_start|>system\\nmode ' ~ mode ~ '<|im_end|>\\n' }}" + CHATML)
    named = {"name": str(model), "chat_template": str(template)}
    made = spec(model, data, model=named, eval__chat_template_kwargs={"mode": "deep"})
    assert preview(made, root, 1)["text"].startswith("<|im_start|>system\nmode deep<|im_end|>")


# --- inputs that are missing or wrong


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
    yield "data missing", spec(model, tmp / "none"), DataError, "$.data.path"
    yield "data a directory", spec(model, tmp), DataError, "$.data.path"
    yield "data empty", spec(model, empty), DataError, "$.data.path"
    yield "data blank", spec(model, blank), DataError, "$.data.path"
    yield "data changed", spec(model, data, data__sha256="0" * 64), DataError, "$.data.sha256"
    yield "model missing", spec(tmp / "none", data), ModelError, "$.model.name"
    yield "not fetched", spec(Path("Qwen/Qwen3-8B"), data), ModelError, "$.model.name"
    yield "no config", spec(no_config, data), ModelError, "$.model.name"
    yield "bad config", spec(bad_config, data), ModelError, ""
    pickled = model_dir(tmp / "pickled")
    (pickled / "pytorch_model-00001-of-00002.bin").touch()
    yield "pickles alone", spec(pickled, data), ModelError, "$.model.name"
    yield "no tokenizer", spec(no_tokenizer, data), ModelError, ""
    yield "no template", spec(no_template, data), TemplateError, "$.model.chat_template"
    lost = with_model(model, chat_template=str(tmp / "none"))
    yield "template lost", spec(model, data, **lost), TemplateError, "$.model.chat_template"
    too_long = spec(model, data, train__max_length=4097)
    yield "too few positions", too_long, ModelError, "$.train.max_length"
    yield "nothing to train", spec(model, data, train=None, data=None), DataError, "$.data"


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
    assert not root.prepared.exists() or names(root.prepared) == []


def test_a_model_of_the_hub_is_found_in_the_roots_cache(
    root: RootPaths, model: Path, data: Path
) -> None:
    repository = root.hub / "models--org--name"
    shutil.copytree(model, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc\n")
    report = prepare(spec(Path("org/name"), data), root)
    assert report["rows_in"] == 40
    pinned = spec(model, data, model={"name": "org/name", "revision": "abc"})
    assert prepare(pinned, root)["key"] == report["key"]
    other = spec(model, data, model={"name": "org/name", "revision": "def"})
    with pytest.raises(ModelError, match="revision `def`") as caught:
        prepare(other, root)
    assert "jobspec fetch" in str(caught.value.hint)


def test_positions_stretched_by_rope_count(root: RootPaths, data: Path, tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    stretched = model_dir(tmp_path / "m", rope_scaling=scaling, max_position_embeddings=2048)
    assert prepare(spec(stretched, data, train__max_length=8192), root)["rows_in"] == 40
    with pytest.raises(ModelError, match="8192 positions"):
        prepare(spec(stretched, data, train__max_length=8193), root)


def test_data_written_to_meanwhile_is_not_shelved(
    root: RootPaths, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_more(*_: Any) -> None:
        with data.open("a") as file:
            file.write("\n")

    with pytest.raises(DataError, match="changed while it was read"):
        prepare(spec(model, data), root, write_more)
    assert names(root.prepared) == []


def test_a_spec_that_is_none_is_refused_as_json(root: RootPaths, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text('{"name": "x"}')
    done = run_prepare("--check", file, "--root", root.root)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["file"] == str(file)
    with pytest.raises(SpecError):
        specs.load(file)


# --- overlap with benchmarks

QUESTION = (
    "Every morning Aya goes for a 9-kilometer-long walk and stops at a coffee shop afterwards. "
    "When she walks at s kilometers per hour, the walk takes her 4 hours."
)


def test_benchmark_questions_in_the_data_are_counted(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = sums(20)
    rows[6]["messages"][0]["content"] = f"Solve: {QUESTION.upper().replace(',', ' ,')}"
    rows[8]["messages"].insert(0, {"role": "system", "content": "What's the sum of 3 and 4, then?"})
    file = write_rows(tmp_path / "rows.jsonl", rows)
    asked = [("q1", QUESTION), ("q2", "what's the sum of 3 and 4, then?"), ("q3", "Find x.")]
    asked.append(("q4", QUESTION.replace("walk", "run")))
    questions = [{"id": name, "problem": text, "answer": "1"} for name, text in asked]
    benchmarks = tmp_path / "benchmarks"
    benchmarks.mkdir()
    write_rows(benchmarks / "aime24.jsonl", questions)
    wanted = {"benchmarks": ["aime24", "aime25"], "benchmark_dir": str(benchmarks)}
    made = spec(model, file, eval=wanted)
    for _ in range(2):  # measured, and kept
        assert prepare(made, root)["overlap"] == {
            "aime24": {
                "questions": 4,
                "judged": 3,
                "questions_found": 2,
                "rows_found": 2,
                "examples": [("q1", 7), ("q2", 9)],
            },
            "aime25": None,
        }


def test_a_run_of_thirteen_words_is_found_and_twelve_are_not() -> None:
    words = QUESTION.split()
    index = overlap.Index.of([QUESTION])
    thirteen = " ".join(words[2:14])  # `9-kilometer-long` counts as three
    assert index.find(f"so {thirteen} it is") == {0}
    assert index.find(f"so {' '.join(words[2:12])} it is") == set()
