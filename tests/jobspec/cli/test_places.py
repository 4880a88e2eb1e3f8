"""Where commands write: queues are created only where that was meant, refusals name the path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from jobspec.spec.identity import canonical
from tests.support.commands import jobspec, jobspec_json
from tests.support.queues import queue_at, succeed
from tests.support.specs import base_spec, score_spec

UNCHECKED = "--no-row-check"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.json"
    path.write_bytes(canonical(score_spec()))
    return path


@pytest.mark.parametrize(
    "command", [("enqueue", UNCHECKED), ("fetch",), ("eval", "--checkpoint", "x"), ("calibrate",)]
)
def test_no_queue_is_created_where_a_filesystem_is_not_mounted(
    command: tuple[str, ...], spec: Path, tmp_path: Path
) -> None:
    given = {"enqueue": [spec], "fetch": [spec], "calibrate": ["Qwen/Qwen3-8B"]}
    root = tmp_path / "scratch" / "me" / "queue"
    said = jobspec(*command, *given.get(command[0], []), "--root", root, code=1).stderr
    if command[0] in ("enqueue", "fetch"):
        assert f"{root}: there is no queue, and no directory for one" in said
        assert "--create" in said
    assert not (tmp_path / "scratch").exists()


def test_a_queue_is_created_with_a_line_that_says_so(spec: Path, tmp_path: Path) -> None:
    done = jobspec("enqueue", UNCHECKED, spec, "--root", "queue", cwd=tmp_path)
    assert f"created a queue in {tmp_path / 'queue'}" in done.stderr
    assert len(done.stdout.split()) == 1
    again = jobspec("enqueue", UNCHECKED, spec, "--root", "queue", cwd=tmp_path)
    assert "created a queue" not in again.stderr


def test_create_makes_a_queue_anywhere(spec: Path, tmp_path: Path) -> None:
    root = tmp_path / "a" / "b" / "queue"
    done = jobspec("enqueue", UNCHECKED, spec, "--root", root, "--create")
    assert f"created a queue in {root}" in done.stderr
    assert Queue(root).jobs()


def test_the_root_of_the_sites_settings_is_not_created_again(spec: Path, tmp_path: Path) -> None:
    """An empty mount point looks like a directory for a new queue."""
    site, root = tmp_path / "site.env", tmp_path / "queue"
    jobspec("setup", "--site", site, "--root", root, "--sif", "/s")
    shutil.rmtree(root)
    root.mkdir()

    def enqueue(where: Path, *options: str, code: int = 0) -> str:
        command = ["enqueue", UNCHECKED, spec, "--root", where, *options]
        return jobspec(*command, code=code, JOBSPEC_SITE_ENV=str(site)).stderr

    refused = enqueue(root, code=1)
    assert f"{root}: there is no queue, but {site} names this root" in refused
    assert list(root.iterdir()) == []
    enqueue(tmp_path / "other")
    enqueue(root, "--create")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A path in which nobody can create anything: a file stands where its directory would be."""
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file" / "new"


def written_by(command: str, closed: Path, queue: Queue) -> list[str | Path]:
    data = ["new", "--model", "Qwen/Qwen3-8B", "--data", "x.jsonl"]
    return {
        "new": [*data, "-o", closed],
        "archive": ["archive", "*", closed],
        "setup": ["setup", "--root", queue.paths.root, "--sif", "/s", "--site", closed],
        "demo": ["demo", "--root", closed],
        "report": ["report", "-o", closed],
        "calibrate": ["calibrate", "Qwen/Qwen3-8B", "--write", closed],
    }[command]


@pytest.mark.parametrize("command", ["new", "archive", "setup", "demo", "report", "calibrate"])
def test_an_output_that_cannot_be_written_is_named(
    command: str, closed: Path, tmp_path: Path
) -> None:
    queue = queue_at(tmp_path / "q")
    succeed(queue, base_spec(), {})
    arguments = written_by(command, closed, queue)
    done = jobspec(*arguments, cwd=tmp_path, code=1, JOBSPEC_ROOT=str(queue.paths.root))
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"{closed.parent}" in errors[0], done.stderr
    assert ".tmp-" not in done.stderr


def test_a_directory_without_permission_is_named_as_json_too(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    if os.access(place, os.W_OK):
        place = Path("/proc")  # root may write everywhere else
    command = ["new", "--model", "Qwen/Qwen3-8B", "--data", "x.jsonl", "-o", place]
    (error,) = jobspec_json(*command, code=1)["errors"]
    assert error["file"] == str(place / "qwen3-8b-lr1e-5.json")
    assert error["hint"] and error["message"]
