"""How fast the command line starts, in processor time: a busy machine matters less to it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from clikit import base_spec, environment

from jobspec.queue import Queue

RUNS = 10
LIMIT = 3.0


def cpu_s(*command: str) -> float:
    """The least processor time that several runs of a command took."""
    took: list[float] = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *command], env=environment(), capture_output=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took)


def test_status_takes_little_more_than_its_libraries(tmp_path: Path) -> None:
    queue = Queue.create(tmp_path / "root")
    for number in range(5):
        queue.enqueue(base_spec(notes=str(number)))
    libraries = cpu_s("-c", "import msgspec, click")
    status = cpu_s("-m", "jobspec.cli", "status", "--root", str(queue.paths.root))
    assert status <= LIMIT * libraries, (status, libraries)


def test_looking_loads_nothing_that_moves_jobs(tmp_path: Path) -> None:
    root = Queue.create(tmp_path / "root").paths.root
    code = "import sys\nfrom jobspec.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--root", str(root)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    movers = {f"jobspec.{name}" for name in ("take", "pick", "publish", "repair", "moves", "claim")}
    assert "jobspec.queue" in loaded
    assert not loaded & (movers | {"secrets", "socket", "difflib", "random", "tempfile"})
