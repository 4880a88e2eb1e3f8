"""worker.lm_eval_tasks.sandbox and code_eval: what generated code can do, and what it can't."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspec.errors import BenchmarkError
from tests.support.lm_eval_tasks import needs_sandbox
from worker.lm_eval_tasks import sandbox
from worker.lm_eval_tasks.code_eval import SandboxedCodeEval


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        ("assert 1 + 1 == 2", True),
        ("assert 1 + 1 == 3", False),
        ("print('x' * 10 ** 6)", True),
        ("this is no Python", False),
        ("import sys; sys.exit(0)", False),
        ("import os; os._exit(0)", False),
        ("x = bytearray(8 << 30)", False),
        ("open('/tmp/file', 'w').write('x')", True),
        ("open('/usr/lib/file', 'w')", False),
        ("import os; assert set(os.environ) <= {'PATH', 'HOME', 'PWD', 'LC_CTYPE'}", True),
        ("import socket; socket.create_connection(('127.0.0.1', {port}))", False),
        ("import os; assert not os.path.exists('{file}')", True),
        ("import os; os.kill({parent}, 0)", False),
    ],
)
@needs_sandbox
def test_what_a_program_can_do(program: str, passes: bool, tmp_path: Path, listener: int) -> None:
    import os

    secret = tmp_path / "secret"
    secret.write_text("mine")
    filled = program.replace("{file}", str(secret)).replace("{port}", str(listener))
    assert sandbox.passes(filled.replace("{parent}", str(os.getpid()))) is passes


@pytest.fixture
def listener() -> Iterator[int]:
    """A port of this machine to which anyone outside of a sandbox can connect."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@needs_sandbox
def test_a_program_that_does_not_end_is_stopped() -> None:
    started = time.monotonic()
    assert not sandbox.passes("while True: pass", time_limit_s=1)
    assert not sandbox.passes("import time; time.sleep(60)", time_limit_s=1)
    assert time.monotonic() - started < 20


@needs_sandbox
def test_code_eval_counts_the_programs_that_pass() -> None:
    sums = ["def add(a, b): return a + b", "def add(a, b): return a * b"]
    found, outcomes = SandboxedCodeEval().compute(
        references=["assert add(2, 3) == 5", "assert add(2, 2) == 4"],
        predictions=[sums, sums],
        k=[1, 2, 10],
    )
    assert found == {"pass@1": 0.75, "pass@2": 1.0}
    assert outcomes == {0: [True, False], 1: [True, True]}


def test_without_bubblewrap_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    sandbox.missing.cache_clear()
    with pytest.raises(BenchmarkError, match=r"`bwrap`\) is not installed") as caught:
        sandbox.require()
    sandbox.missing.cache_clear()
    assert "apt-get install bubblewrap" in (caught.value.hint or "")
