"""`jobspec fetch`: the real command and client, from a hub on this machine and from none."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from jobspec.models.directory import find_model
from jobspec.spec.schema import EvalSpec, ModelSpec
from jobspec.storage.layout import RootPaths
from tests.support.commands import jobspec, jobspec_json
from tests.support.hub import COMMIT, Repositories, hub
from tests.support.specs import job_spec, write_spec
from tests.support.terminal import Terminal

MODEL = {
    "config.json": b'{"max_position_embeddings": 64}',
    "model-00001-of-00001.safetensors": b"weights",
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "pytorch_model.bin": b"a pickle",
    "tokenizer.bin": b"a pickle of another kind",
    "modeling_own.py": b"print('hello')",
    "README.md": b"about",
}
HUB: Repositories = {
    ("models", "org/tiny"): MODEL,
    ("models", "org/pickled"): {"config.json": b"{}", "pytorch_model.bin": b"a pickle"},
}
QUICK = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "1"}  # a login node's habit: unset by fetch


def own_spec(directory: Path, model: str, **fields: Any) -> Path:
    scored = EvalSpec(benchmarks=("aime_own",), benchmark_dir=str(directory))
    spec = job_spec(model, model={"name": model, **fields}, eval=scored)
    row = b'{"id": "1", "problem": "1+1?", "answer": "2"}\n'
    (directory / "aime_own.jsonl").write_bytes(row)
    return write_spec(directory / f"{model.replace('/', '-')}{len(fields)}.json", spec)


def cached_files(root: Path, model: str = "org/tiny") -> set[str]:
    snapshot = find_model(ModelSpec(name=model), RootPaths(root))
    assert snapshot.name == COMMIT
    return {path.name for path in snapshot.iterdir()}


def test_weights_and_tokenizer_are_fetched_and_nothing_that_can_run(tmp_path: Path) -> None:
    root, spec = tmp_path / "root", own_spec(tmp_path, "org/tiny")
    with hub(HUB) as endpoint:
        done = jobspec("fetch", spec, "--root", root, HF_ENDPOINT=endpoint, **QUICK)
    first, second = done.stdout.splitlines()
    assert first.startswith("org/tiny: ") and second.startswith("aime_own: 1 questions in ")
    unwanted = {"pytorch_model.bin", "tokenizer.bin", "modeling_own.py", "README.md"}
    assert cached_files(root) == MODEL.keys() - unwanted
    assert "\r" not in done.stderr  # no progress bars where nobody looks
    jobspec("status", "--root", root)  # the root is one of ours, safe to enqueue into


def test_on_a_terminal_bars_leave_the_lines_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = own_spec(tmp_path, "org/tiny")
    with hub(HUB) as endpoint:
        for name, value in {**QUICK, "HF_ENDPOINT": endpoint}.items():
            monkeypatch.setenv(name, value)
        seen = Terminal("fetch", str(spec), "--root", str(tmp_path / "root"), columns=250).screen()
    assert any("100%" in line for line in seen)
    assert {"org/tiny:", "aime_own:"} <= {line.partition(" ")[0] for line in seen}


def test_code_comes_with_a_model_only_where_the_spec_trusts_it(tmp_path: Path) -> None:
    spec = own_spec(tmp_path, "org/tiny", trust_remote_code=True)
    with hub(HUB) as endpoint:
        jobspec("fetch", spec, "--root", tmp_path / "root", HF_ENDPOINT=endpoint, **QUICK)
    assert "modeling_own.py" in cached_files(tmp_path / "root")
    assert "pytorch_model.bin" not in cached_files(tmp_path / "root")


def test_every_spec_is_tried_and_what_is_missing_is_named(tmp_path: Path) -> None:
    names = ("org/none", "org/pickled", "org/tiny")
    files = [own_spec(tmp_path, name) for name in names]
    with hub(HUB) as endpoint:
        told = jobspec_json(
            *("fetch", *files, "--root", tmp_path / "root"), code=1, HF_ENDPOINT=endpoint, **QUICK
        )
    none, pickled = told["errors"]
    assert none["file"] == str(files[0]) and "`org/none` can't be downloaded" in none["message"]
    assert pickled["message"] == "`org/pickled` has no safetensors weights"
    assert "can contain code" in pickled["hint"]
    assert {row["file"] for row in told["fetched"]} == {str(files[2])}
    assert "model-00001-of-00001.safetensors" in cached_files(tmp_path / "root")


def test_without_network_it_says_what_could_not_be_fetched(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    files = [own_spec(tmp_path, name) for name in ("org/tiny", "org/pickled")]
    done = jobspec(
        *("fetch", *files, "--root", tmp_path / "root"), code=1, HF_ENDPOINT=nowhere, **QUICK
    )
    for name in ("org/tiny", "org/pickled"):
        assert f"`{name}` can't be downloaded" in done.stderr
    assert done.stderr.count("hint: check the name and the network") == 2
    assert "2 specs of 2 not fetched completely" in done.stderr
    assert done.stdout == ""


def test_a_gated_models_token_is_never_told(tmp_path: Path) -> None:
    token = "hf_" + "a1B2" * 9
    spec = own_spec(tmp_path, "org/none")
    with hub(HUB) as endpoint:
        done = jobspec(
            *("fetch", spec, "--root", tmp_path / "root"),
            code=1, HF_ENDPOINT=endpoint, HF_TOKEN=token, **QUICK,
        )  # fmt: skip
    assert token not in done.stdout + done.stderr
    for path in (tmp_path / "root").rglob("*"):
        assert path.is_dir() or token.encode() not in path.read_bytes()


def test_the_image_named_by_the_environment_does_the_fetching(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    image = tmp_path / "image"
    image.write_text(f'#!/bin/sh\necho "$@" >> {seen}\nexec {sys.executable} "$@"\n')
    image.chmod(0o755)
    spec = own_spec(tmp_path, "org/tiny")
    with hub(HUB) as endpoint:
        jobspec(
            *("fetch", spec, "--root", tmp_path / "root"),
            HF_ENDPOINT=endpoint, JOBSPEC_WORKER_COMMAND=str(image), **QUICK,
        )  # fmt: skip
    assert seen.read_text().startswith("-m worker.fetch --json ")


@pytest.mark.parametrize(
    ("command", "said"),
    [("/none/at/all", "`/none/at/all` can't be run"), ("false", "failed with exit code 1")],
)
def test_a_worker_that_can_not_be_run_is_no_bug(tmp_path: Path, command: str, said: str) -> None:
    spec = own_spec(tmp_path, "org/tiny")
    done = jobspec("fetch", spec, "--root", tmp_path, code=1, JOBSPEC_WORKER_COMMAND=command)
    assert said in done.stderr and "JOBSPEC_WORKER_COMMAND" in done.stderr


def test_a_spec_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    done = jobspec("fetch", bad, "--root", tmp_path / "root", code=1)
    assert str(bad) in done.stderr and "not valid JSON" in done.stderr


def test_run_stops_before_it_enqueues_what_can_not_be_had(tmp_path: Path) -> None:
    root = tmp_path / "root"
    spec = job_spec("org/tiny", model={"name": "org/tiny"}, eval=EvalSpec(benchmarks=("aime24",)))
    file = write_spec(tmp_path / "spec.json", spec)
    with hub(HUB) as endpoint:
        done = jobspec("run", file, "--root", root, code=1, HF_ENDPOINT=endpoint, **QUICK)
    assert "downloading what is missing here" in done.stderr
    assert "`aime24` is in no benchmark directory" in done.stderr
    assert jobspec_json("status", "--root", root)["jobs"] == []
