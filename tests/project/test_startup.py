"""How fast the command line starts, in processor time: a busy machine matters less to it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from tests.support.commands import environment, run_checked
from tests.support.specs import base_spec

RUNS = 10
HELP_LIMIT = 1.5
LIMIT = 3.0


def cpu_s(*command: str) -> float:
    """The least processor time that several runs of a command took."""
    took: list[float] = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_checked([sys.executable, *command], env=environment())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took)


def test_help_and_status_take_little_more_than_their_libraries(queue: Queue) -> None:
    for number in range(5):
        queue.enqueue(base_spec(notes=str(number)))
    libraries = cpu_s("-c", "import msgspec, click")
    status = cpu_s("-m", "jobspec.cli", "status", "--root", str(queue.paths.root))
    assert status <= LIMIT * libraries, (status, libraries)
    asked = cpu_s("-m", "jobspec.cli", "--help")
    assert asked <= HELP_LIMIT * libraries, (asked, libraries)


def modules(code: str, *arguments: str) -> set[str]:
    """What a process has imported at its end."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)",
            *arguments,
        ],
        env=environment(PYTHONWARNINGS="ignore"),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


def packages(loaded: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in loaded}


CLI = "from jobspec.cli import main\ntry: main()\nexcept SystemExit: pass"
HEAVY = {"torch", "transformers", "numpy", "datasets", "lm_eval", "trl", "deepspeed", "wandb"}


@pytest.mark.parametrize(
    ("code", "arguments", "most"),
    [
        (CLI, ("--help",), 130),
        ("import worker.__main__, worker.supervisor.worker", (), 334),
        ("import worker.process.rank_launcher", (), 110),
        ("import worker.data.prepare", (), 310),
    ],
)
def test_what_starts_often_imports_little(code: str, arguments: tuple[str, ...], most: int) -> None:
    loaded = modules(code, *arguments)
    assert not packages(loaded) & HEAVY
    assert 40 < len(loaded) <= most


def test_a_rank_imports_no_package_that_it_never_uses(tmp_path: Path) -> None:
    """A start of a rank is mostly imports: 3,900 modules, and each package here is 100 to 300."""
    attempt = tmp_path / "attempts" / "1"
    attempt.mkdir(parents=True)
    (tmp_path / "spec.json").write_text('{"train": {"lora": null}}')
    loaded = modules("import worker.training.train", str(attempt))
    unused = {"sklearn", "scipy", "wandb", "trio", "peft", "lm_eval", "math_verify", "vllm"}
    real = {name for name in unused & packages(loaded) if name != "peft"}
    assert not real
    assert not {name for name in loaded if name.startswith("peft.")}
    assert 2000 < len(loaded) <= 4000


def test_looking_loads_nothing_that_moves_jobs(tmp_path: Path) -> None:
    root = Queue.create(tmp_path / "root").paths.root
    loaded = modules(CLI, "status", "--root", str(root))
    assert not packages(loaded) & HEAVY
    assert len(loaded) <= 190  # each room is a package, which counts as a module too
    names = ("acquire", "candidates", "enqueue", "fsck", "transitions", "claim")
    movers = {f"jobspec.queue.{name}" for name in names}
    assert "jobspec.queue.queue" in loaded
    assert not loaded & (movers | {"secrets", "socket", "difflib", "random", "tempfile"})
