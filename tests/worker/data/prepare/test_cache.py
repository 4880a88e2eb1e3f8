"""Prepared rows are made once, found again, whole or not there, and light to find."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jobspec.storage.layout import RootPaths
from tests.support.models import CHATML, model_dir
from tests.support.paths import REPOSITORY, stems
from tests.support.prepared import read_split, run_code, run_prepare, sums, write_rows
from tests.support.queues import attempt_of
from tests.support.specs import train_spec, write_spec
from tests.support.waiting import until
from worker.data.pipeline import prepare


def test_prepared_rows_are_found_again_without_any_heavy_import(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", train_spec(model, data))
    assert not json.loads(run_prepare("--check", file, "--root", root.root).stdout)["cached"]
    write_rows(
        tmp_path / "aime_own.jsonl",
        [{"id": "1", "problem": "How many primes are below one hundred?", "answer": "25"}],
    )
    other = train_spec(
        model,
        data,
        name="other",
        train__learning_rate=1e-6,
        data__max_dropped_frac=0.5,
        eval={"benchmarks": ["aime_own"], "benchmark_dir": str(tmp_path)},
    )
    attempt = attempt_of(root.root, other).dir
    code = (
        "import sys\n"
        "from jobspec.records import phases\n"
        "from worker.data import prepare\n"
        "from worker.phase import Phase\n"
        "prepare.body(Phase(phases.PREPARE, sys.argv[1]))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert run_code(code, attempt) == "[]\n"
    assert json.loads((attempt / "prepare.json").read_text())["cached"]


def test_tokenizing_does_not_import_torch_either(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", train_spec(model, data))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from jobspec.spec import parsing as spec\n"
        "from jobspec.storage.layout import RootPaths\n"
        "from worker.data.pipeline import prepare\n"
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
    first = prepare(train_spec(model, data), root)
    assert prepare(train_spec(model, data), root).cached
    second = prepare(train_spec(model, data, **CHANGES[change]), root)
    assert not second.cached
    assert second.key != first.key


def test_other_data_template_or_tokenizer_is_another_key(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    keys = {prepare(train_spec(model, data), root).key}
    template = tmp_path / "other.jinja"
    template.write_text(CHATML + "\n{# other #}")
    named = train_spec(model, data, model={"name": str(model), "chat_template": str(template)})
    keys.add(prepare(named, root).key)
    keys.add(prepare(train_spec(model_dir(tmp_path / "m", eos_token_id=1), data), root).key)
    with data.open("a") as file:
        file.write("\n")
    keys.add(prepare(train_spec(model, data), root).key)
    assert len(keys) == 4


@pytest.mark.parametrize("damage", ["truncated", "removed", "report gone"])
def test_rows_a_purge_took_parts_of_are_made_again(
    damage: str, root: RootPaths, model: Path, data: Path
) -> None:
    report = prepare(train_spec(model, data), root)
    directory = root.root / report.dir
    arrow = directory / "train" / "data-00000-of-00001.arrow"
    whole = arrow.read_bytes()
    if damage == "truncated":
        os.truncate(arrow, len(whole) - 1)
    else:
        (arrow if damage == "removed" else directory / "prepared.json").unlink()
    again = prepare(train_spec(model, data), root)
    assert (again.cached, again.key) == (False, report.key)
    assert arrow.read_bytes() == whole
    assert prepare(train_spec(model, data), root).cached


def test_many_at_once_make_one_directory(
    root: RootPaths, model: Path, data: Path, tmp_path: Path
) -> None:
    file = write_spec(tmp_path / "spec.json", train_spec(model, data))
    command = [sys.executable, "-m", "worker.data.check_command", "--check", str(file)]
    started = [
        subprocess.Popen(
            [*command, "--root", str(root.root)], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert len({answer["tokens"] for answer in answers}) == 1
    assert len(stems(root.prepared)) == 1
    report = prepare(train_spec(model, data), root)
    assert report.cached
    assert len(read_split(root, report, "train")) == 38


def test_killed_in_the_middle_it_leaves_nothing_under_the_key(
    root: RootPaths, model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(20_000))
    file = write_spec(tmp_path / "spec.json", train_spec(model, rows))
    command = [sys.executable, "-m", "worker.data.check_command", "--check", str(file)]
    with subprocess.Popen([*command, "--root", str(root.root)], cwd=REPOSITORY) as process:
        try:
            until(lambda: list(root.prepared.glob(".tmp-*/piece-*")))
        finally:
            process.kill()
    left = stems(root.prepared)
    assert left
    assert all(name.startswith(".") for name in left)
    # Its pool dies with it, so that the next one may treat its files as abandoned.
    report = json.loads(run_prepare("--check", file, "--root", root.root).stdout)
    assert report["rows_in"] == 20_000
    assert len(stems(root.prepared)) == 1


def test_a_full_disk_leaves_nothing(model: Path, kept_tokenizers: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sums(3000))
    file = write_spec(tmp_path / "spec.json", train_spec(model, rows))
    mount = tmp_path / "full"
    mount.mkdir()
    size = 200_000 + sum(path.stat().st_size for path in kept_tokenizers.iterdir())
    script = (
        f"mount -t tmpfs -o size={size} none {mount} || exit 99; mkdir -p {mount}/cache; "
        f"cp -r {kept_tokenizers} {mount}/cache/tokenizers; "
        f"{sys.executable} -m worker.data.check_command --check {file} --root {mount}; code=$?; "
        f"ls -A {mount}/cache/prepared >&2; exit $code"
    )
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here, which makes a small filesystem")
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in (1, 99) and not done.stdout:
        pytest.skip(f"no private mount here: {done.stderr.strip()}")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["error"]["message"] == "no space left"
    assert done.stderr == ""


def test_a_root_that_is_not_writable_is_named(model: Path, kept_tokenizers: Path) -> None:
    """Run as nobody, where the tests run as root, whom nothing is forbidden."""
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from jobspec.spec import parsing as spec\nfrom jobspec.storage.layout import RootPaths\n"
        "from worker.data import cache_key, check_command\n"
        "cache_key.PrepareInputs.of(spec.load(sys.argv[2]), RootPaths(Path(sys.argv[4])))\n"
        "if os.geteuid() == 0:\n    os.seteuid(65534)\n"
        "check_command.main()"
    )
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        shutil.copytree(kept_tokenizers, base / "root" / "cache" / "tokenizers")
        shutil.copytree(model, base / "model")
        rows = write_rows(base / "rows.jsonl", sums(3))
        file = write_spec(base / "spec.json", train_spec(base / "model", rows))
        for path in (base, base / "root", base / "root" / "cache"):
            path.chmod(0o555)
        command = [sys.executable, "-c", code, "--check", str(file), "--root", str(base / "root")]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        for path in (base, base / "root", base / "root" / "cache"):
            path.chmod(0o755)
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["message"].startswith("not writable: ")
    assert error["file"] == str(base / "root")
    assert error["hint"]
