"""Which modules real commands load: nothing heavy for a look at a queue."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from jobspec.spec import builder
from tests.support.commands import environment
from tests.support.specs import base_spec

HEAVY = {"torch", "transformers", "wandb", "deepspeed", "trl", "datasets", "lm_eval", "vllm"}


def loaded(*args: str) -> set[str]:
    """The modules that a real command has in sys.modules at its end."""
    code = (
        "import sys, json\nfrom jobspec.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Queue.create(tmp_path / "root").enqueue(base_spec())
    return tmp_path / "root"


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("results",), ("workers",)])
def test_looking_imports_nothing_heavy(root: Path, command: tuple[str, ...]) -> None:
    found = loaded(*command, "--root", str(root))
    assert "jobspec.queue.queue" in found
    assert not found & (HEAVY | {"rich", "worker", "numpy"})


def test_enqueueing_imports_nothing_heavy(root: Path, tmp_path: Path) -> None:
    ((spec, _),) = builder.write([base_spec(notes="another")], tmp_path)
    found = loaded("enqueue", str(spec), "--root", str(root))
    assert not found & (HEAVY | {"worker", "numpy"})


def test_help_imports_click_and_nothing_of_ours_but_its_table() -> None:
    found = loaded("--help")
    ours = {name for name in found if name.startswith("jobspec")}
    assert ours == {"jobspec", "jobspec.cli", "jobspec.cli.common"}
    assert not found & (HEAVY | {"rich", "worker", "msgspec"})


def test_the_supervisor_imports_nothing_heavy() -> None:
    code = "import sys, json, worker.__main__\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    found = set(json.loads(done.stdout))
    assert "worker.supervisor.worker" in found and not found & HEAVY
