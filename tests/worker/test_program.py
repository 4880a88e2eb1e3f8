"""How a program's process ends: with the code that it chose, whatever its threads still do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.paths import REPOSITORY

# It leaves collectives to gloo's threads. With `sys.exit` half of such processes are aborted.
_COLLECTIVES = """
import torch
import torch.distributed as dist


def main():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    for _ in range(2000):
        dist.all_reduce(torch.zeros(10), async_op=True)
    return 3


run_program(main)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from worker.program import run_program\n{code}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.deepspeed
def test_threads_of_a_library_do_not_change_the_exit_code() -> None:
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(run, [_COLLECTIVES] * 6))
    assert [(each.returncode, each.stderr) for each in ended] == [(3, "")] * 6


@pytest.mark.parametrize(
    ("main", "code", "stderr"),
    [
        ("lambda: None", 0, ""),
        ("lambda: 6", 6, ""),
        ("sys.exit", 0, ""),
        ("lambda: sys.exit(75)", 75, ""),
        ("lambda: sys.exit('no such root')", 1, "no such root\n"),
        ("lambda: 1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_the_exit_code_is_the_programs(main: str, code: int, stderr: str) -> None:
    done = run(f"import sys\nsys.stdout.write('said')\nrun_program({main})")
    assert done.returncode == code
    assert done.stderr.endswith(stderr) and bool(done.stderr) == bool(stderr)
    assert done.stdout == "said"


def test_an_answer_that_could_not_be_written_is_no_success() -> None:
    full = "import sys\nsys.stdout = open('/dev/full', 'w')\nprint('an answer')"
    assert run(f"{full}\nrun_program(lambda: 0)").returncode == 120
    assert run(f"{full}\nrun_program(lambda: 3)").returncode == 3


def test_what_is_to_be_done_at_exit_is_done() -> None:
    done = run("import atexit\natexit.register(print, 'cleaned up')\nrun_program(lambda: 5)")
    assert (done.returncode, done.stdout) == (5, "cleaned up\n")


def test_every_program_that_may_load_a_library_ends_so() -> None:
    """The worker and what it starts ranks with load none (tests/project/test_startup.py)."""
    light = ("worker/__main__.py", "worker/process/")
    found = {name: call for name, call in _entries() if not name.startswith(light)}
    assert len(found) > 25
    assert [name for name, call in found.items() if call != "run_program"] == []


def _entries() -> Iterator[tuple[str, str]]:
    """Each program of the worker, and the function that its last line calls."""
    for path in sorted((REPOSITORY / "worker").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                last = node.body[-1]
                assert isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)
                yield str(path.relative_to(REPOSITORY)), ast.unparse(last.value.func)
