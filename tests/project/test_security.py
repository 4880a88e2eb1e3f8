"""Names that leave their directory, secrets in specs, foreign code, lax directories."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import RootError, SpecError
from jobspec.queue.queue import Queue
from jobspec.spec import builder, identity, parsing, secrets
from jobspec.spec.schema import JobSpec
from tests.support.commands import PATIENCE_S, environment, jobspec
from tests.support.paths import REPOSITORY
from tests.support.specs import base_spec, score_spec, tuned_spec

# Made up, and of the right shapes.
HF = "hf_" + "aB3dE" * 7
WANDB = "0123456789abcdef0123456789abcdef01234567"
WANDB_NEW = "wandb_v1_" + "Ab3_" * 15


def fields(**changed: Any) -> dict[str, Any]:
    """A spec as JSON fields, dotted names set."""
    made: dict[str, Any] = json.loads(identity.canonical(base_spec()))
    for place, value in changed.items():
        *groups, last = place.split("__")
        group = made
        for name in groups:
            group = group[name]
        group[last] = value
    return made


def decoded(**changed: Any) -> JobSpec:
    return parsing.decode(json.dumps(fields(**changed)).encode())


# Names


@pytest.mark.parametrize(
    "name",
    ["../aime24", "aime/../../x", "/etc/passwd", "..", ".hidden", "aime24\n", "a b", "-rf", ""],
)
def test_a_benchmarks_name_stays_in_its_directory(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        decoded(eval__benchmarks=["aime25", name])
    assert caught.value.place in ("$.eval.benchmarks[1]", "$.eval.benchmarks[...]")


@pytest.mark.parametrize("name", ["aime24", "gsm8k_cot", "leaderboard_math_hard", "a.b-c+d"])
def test_benchmarks_of_ordinary_names_are_taken(name: str) -> None:
    assert decoded(eval__benchmarks=[name]).eval is not None


@pytest.mark.parametrize(
    "revision", ["../../../etc", "refs/../../x", "/abs", "a//b", ".", "main\n", "a b", "-x"]
)
def test_a_revision_stays_in_the_models_cache(revision: str) -> None:
    with pytest.raises(SpecError) as caught:
        decoded(model__revision=revision)
    assert caught.value.place == "$.model.revision"


@pytest.mark.parametrize("revision", ["main", "v1.2", "refs/pr/3", WANDB, "step-1000+tokens"])
def test_branches_tags_and_commits_are_revisions(revision: str) -> None:
    assert decoded(model__revision=revision).model.revision == revision


@pytest.mark.parametrize("name", ["job\n", "../job", "a/b"])
def test_a_jobs_name_is_one(name: str) -> None:
    with pytest.raises(SpecError):
        decoded(name=name)


def test_a_hub_name_is_one(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(fields(model__name="org/..")))
    done = jobspec("validate", spec, "--root", tmp_path / "root", code=1)
    assert "neither a directory nor a name on the hub" in done.stderr


def test_a_chat_template_must_exist(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(fields(model__chat_template=str(tmp_path / "none.jinja"))))
    done = jobspec("validate", spec, "--root", tmp_path / "root", code=1)
    assert "$.model.chat_template" in done.stderr and "does not exist" in done.stderr


# Secrets

SECRETS = [
    ("$.notes", "a Hugging Face token", {"notes": f"run with HF_TOKEN={HF}"}),
    ("$.notes", "a W&B key", {"notes": f"WANDB_API_KEY={WANDB}"}),
    ("$.notes", "a W&B key", {"notes": f"wandb login {WANDB}"}),
    ("$.notes", "a W&B key", {"notes": WANDB_NEW}),
    ("$.tracking.entity", "a W&B key", {"tracking__entity": WANDB}),
    ("$.tracking.group", "a Hugging Face token", {"tracking__group": HF}),
    ("$.model.name", "a password in a URL", {"model__name": "https://me:pw@example.org/m"}),
    ("$.eval.chat_template_kwargs.key", "an API key",
     {"eval__chat_template_kwargs": {"key": "sk-" + "x1" * 20}}),
    ("$.eval.chat_template_kwargs", "a Hugging Face token",
     {"eval__chat_template_kwargs": {HF: True}}),
]  # fmt: skip


@pytest.mark.parametrize(("place", "kind", "changed"), SECRETS)
def test_what_looks_like_a_secret_is_found(place: str, kind: str, changed: dict[str, Any]) -> None:
    assert next(secrets.find(decoded(**changed))) == (place, kind)
    with pytest.raises(SpecError) as caught:
        secrets.refuse(decoded(**changed))
    told = f"{caught.value} {caught.value.hint}"
    assert HF not in told and WANDB not in told and WANDB_NEW not in told


@pytest.mark.parametrize(
    "changed",
    [
        {"model__revision": WANDB},
        {"model__name": f"/scratch/hub/models--a--b/snapshots/{WANDB}"},
        {"notes": f"trained at commit {WANDB}, see hf_transfer and task-specific notes"},
        {"notes": "learning_rate 1e-5; tokens: 40 per row; key idea: longer"},
        {"tracking__project": "wandb_v2"},
    ],
)
def test_what_only_resembles_a_secret_is_left_alone(changed: dict[str, Any]) -> None:
    assert list(secrets.find(decoded(**changed))) == []
    assert list(secrets.find(tuned_spec())) == []  # with the SHA-256 of its data


def test_the_specs_of_the_repository_hold_no_secrets() -> None:
    files = sorted((REPOSITORY / "specs").glob("*.json"))
    assert files
    assert [list(secrets.find(parsing.load(file))) for file in files] == [[]] * len(files)


def holds(directory: Path, secret: str) -> list[Path]:
    """Files in which a secret stands."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("command", ["validate", "enqueue"])
def test_a_spec_with_a_secret_gets_nowhere(tmp_path: Path, command: str) -> None:
    given = tmp_path / "spec.json"
    given.write_text(json.dumps(fields(notes=f"HF_TOKEN={HF}")))
    root = tmp_path / "root"
    done = jobspec(command, given, "--root", root, code=1)
    assert f"{given}, $.notes: looks like a Hugging Face token" in done.stderr
    assert "WANDB_API_KEY or HF_TOKEN in the environment" in done.stderr
    assert HF not in done.stdout + done.stderr
    assert holds(tmp_path, HF) == [given]


def test_neither_python_nor_new_writes_a_secret(tmp_path: Path, queue: Queue) -> None:
    with pytest.raises(SpecError, match="looks like"):
        queue.enqueue(score_spec(notes=HF))
    with pytest.raises(SpecError, match="looks like"):
        builder.write([base_spec(notes=HF)], tmp_path / "specs")
    assert queue.jobs() == [] and holds(tmp_path, HF) == []


def test_a_secret_in_the_wrong_field_is_not_repeated_by_the_error(tmp_path: Path) -> None:
    given = tmp_path / "spec.json"
    given.write_text(json.dumps(fields(eval__seed=HF)))
    done = jobspec("validate", given, "--root", tmp_path / "root", code=1)
    assert "$.eval.seed" in done.stderr and "hf_a…" in done.stderr
    assert HF not in done.stderr


# Code


def test_a_models_own_code_is_off_and_warned_of(tmp_path: Path) -> None:
    assert base_spec().model.trust_remote_code is False
    given = tmp_path / "spec.json"
    given.write_text(json.dumps(fields(model__trust_remote_code=True)))
    warned = jobspec("validate", given, "--root", tmp_path / "root").stderr
    assert "code of its own, which will run on every worker; `model.revision` would pin" in warned
    given.write_text(json.dumps(fields(model__trust_remote_code=True, model__revision="v1")))
    warned = jobspec("validate", given, "--root", tmp_path / "root").stderr
    assert "will run on every worker" in warned and "would pin" not in warned
    given.write_text(json.dumps(fields()))
    assert "code of its own" not in jobspec("validate", given, "--root", tmp_path / "root").stderr


# Directories


@pytest.mark.parametrize("which", ["", "hub", "prepared", "datasets", "tokenizers"])
@pytest.mark.parametrize(("mode", "who"), [(0o775, "its group"), (0o757, "others")])
def test_a_cache_that_others_can_write_to_is_refused(
    queue: Queue, which: str, mode: int, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (queue.paths.cache / which).mkdir(parents=True)
    (queue.paths.cache / which).chmod(mode)
    with pytest.raises(RootError, match=f"{who} may write to it") as caught:
        Queue(queue.paths.root)
    assert re.search(r"chmod [go]-w ", caught.value.hint or "")
    monkeypatch.setenv("JOBSPEC_ALLOW_GROUP", "1")
    if mode == 0o775:
        Queue(queue.paths.root)


@pytest.fixture
def lax_umask() -> Iterator[None]:
    """What many sites set: whatever is made, the group may write to it."""
    before = os.umask(0o002)
    yield
    os.umask(before)


@pytest.mark.usefixtures("lax_umask")
def test_what_workers_and_their_programs_make_the_group_can_not_write_to(tmp_path: Path) -> None:
    """A program in the worker's place shows by what umask it was started."""
    shown = tmp_path / "shown"
    image = tmp_path / "image"
    image.write_text(f"#!/bin/sh\nmkdir -p {shown}\nexit 7\n")
    image.chmod(0o755)
    spec = tmp_path / "spec.json"
    spec.write_bytes(identity.canonical(base_spec()))
    jobspec("fetch", spec, "--root", tmp_path / "root", code=1, JOBSPEC_WORKER_COMMAND=str(image))
    assert stat.S_IMODE(shown.stat().st_mode) == 0o755
    shown.rmdir()
    allowed = {"JOBSPEC_WORKER_COMMAND": str(image), "JOBSPEC_ALLOW_GROUP": "1"}
    jobspec("fetch", spec, "--root", tmp_path / "shared", code=1, **allowed)
    assert stat.S_IMODE(shown.stat().st_mode) == 0o775


@pytest.mark.usefixtures("lax_umask")
def test_a_worker_tightens_its_umask(tmp_path: Path) -> None:
    root = Queue.create(tmp_path / "root").paths
    command = [sys.executable, "-m", "worker", "--root", str(root.root)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as worker:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not list(root.workers.glob("*.json")):
                assert worker.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            status = Path(f"/proc/{worker.pid}/status").read_text()
        finally:
            worker.kill()
    assert re.search(r"^Umask:\s+0022$", status, re.MULTILINE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_owns_is_left_alone(queue: Queue) -> None:
    theirs, mine = queue.enqueue(score_spec("theirs")), queue.enqueue(score_spec("mine"))
    os.chown(theirs.entry.path(queue.paths), 12345, -1)
    claim = queue.claim("w-0000000000000001")
    assert claim is not None and claim.job == mine.id
    assert queue.claim("w-0000000000000001") is None
    assert "belongs to user id `12345`" in queue.notes[theirs.id]
    group = Queue(queue.paths.root, allow_group=True)
    claim = group.claim("w-0000000000000002")
    assert claim is not None and claim.job == theirs.id
