"""Runs the real `jobspec` command in a subprocess."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.json_docs import undocumented
from tests.support.paths import REPOSITORY

PATIENCE_S = 30.0


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would change a command's answer."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("JOBSPEC_", "COLUMNS"))}
    ours |= {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error", "NO_COLOR": "1"}
    return ours | extra


@contextlib.contextmanager
def ctrl_c_heard() -> Iterator[None]:
    """What starts in here hears SIGINT: a shell's background ignores it, and children inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def jobspec(
    *args: str | Path, cwd: Path | None = None, code: int | None = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command; its exit code must be `code` (None: any)."""
    command = [sys.executable, "-m", "jobspec.cli", *map(str, args)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    if "--json" in args and done.stdout:
        wrong = undocumented([str(arg) for arg in args], json.loads(done.stdout))
        assert wrong is None, f"not as in docs/json.md: {wrong}"
    return done


def jobspec_json(*args: str | Path, cwd: Path | None = None, code: int = 0, **env: str) -> Any:
    """The JSON object that a command prints with --json."""
    return json.loads(jobspec(*args, "--json", cwd=cwd, code=code, **env).stdout)


def run_checked(
    command: Sequence[str | Path], *, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None
) -> str:
    """Run a command that has to succeed. Returns its stdout; a failure shows all it printed."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Talking:
    """A command that keeps running: its lines in order, each within half a minute."""

    def __init__(self, *args: str | Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "jobspec.cli", *map(str, args)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Talking:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def line(self) -> str:
        stdout, lines = self._process.stdout, list[str]()
        assert stdout is not None
        reader = threading.Thread(target=lambda: lines.append(stdout.readline()))
        reader.start()
        reader.join(PATIENCE_S)
        if reader.is_alive():
            self._process.kill()
            reader.join()
            raise AssertionError("no line came")
        return lines[0]

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def end(self) -> tuple[str, str, int]:
        """What else it printed on stdout and stderr, and its exit code."""
        out, talk = self._process.communicate(timeout=PATIENCE_S)
        return out, talk, self._process.returncode
