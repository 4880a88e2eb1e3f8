"""The main commands where colours, UTF-8, width or the time zone are not what they usually are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from tests.jobspec.cli.test_status_view import everything
from tests.support.commands import environment
from tests.support.paths import fast_dir
from tests.support.specs import base_spec
from tests.support.terminal import Terminal

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "no colour": {"NO_COLOR": "1"},
    "dumb": {"TERM": "dumb", "NO_COLOR": ""},
    "60 columns": {"COLUMNS": "60"},
    "another zone": {"TZ": "Asia/Kolkata"},
    "C": {"LC_ALL": "C", "LANG": "C"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"PYTHONIOENCODING": "iso-8859-1"},
}
TIME = re.compile(r"\d\d:\d\d:\d\d(?! UTC)")


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with fast_dir() as directory:  # its path's length is the same at every run
        queue = Queue.create(directory / "r")
        everything(queue)
        queue.hold("quota is full – ask", by="ada")
        yield queue.paths.root


def commands(root: Path) -> list[list[str]]:
    shown = next(job.id for job in Queue(root).jobs() if job.spec.name == "thrice")
    inside = ["--root", str(root)]
    listed = [["status"], ["results"], ["workers"], ["show", shown, "--all"], ["ls", "--all"]]
    return [["--help"], *([*each, *inside] for each in [*listed, ["quarantine", "list"], ["du"]])]


def printed(command: list[str], env: dict[str, str]) -> tuple[str, str]:
    """What a command writes to stdout and to stderr; both must be of the locale's encoding."""
    done = subprocess.run(
        [sys.executable, "-m", "jobspec.cli", *command],
        env=environment(**env),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    return done.stdout.decode(encoding), done.stderr.decode(encoding)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_commands_work_in_any_environment(root: Path, name: str) -> None:
    env = ENVIRONMENTS[name]
    for command in commands(root):
        out, err = printed(command, env)
        text = out + err
        assert "\x1b" not in text, f"{command} prints escape codes"
        assert not TIME.search(text), f"{command} prints a time without a zone"
        if "COLUMNS" in env:
            tables = [line for line in out.splitlines() if "/" not in line]
            assert max(map(len, tables)) <= 60, command


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_a_terminal_without_colours_gets_no_escape_codes(
    root: Path, columns: int, env: dict[str, str]
) -> None:
    for command in commands(root)[1:4]:
        terminal = Terminal(*command, columns=columns, lines=60, env=env)
        try:
            drawn = b""
            while chunk := _read(terminal):
                drawn += chunk
        finally:
            terminal.close()
        assert b"\x1b" not in drawn, command
        lines = [line for line in drawn.decode().splitlines() if "/" not in line]
        assert max(map(len, lines)) <= columns


def _read(terminal: Terminal) -> bytes:
    try:
        return os.read(terminal._ours, 65536)  # pyright: ignore[reportPrivateUsage]
    except OSError:  # the command has ended
        return b""


def test_enqueue_in_a_latin_1_locale(tmp_path: Path) -> None:
    from jobspec.spec import builder

    ((spec, _),) = builder.write([base_spec(notes="naïve – 数学")], tmp_path)
    root = str(tmp_path / "r")
    printed(["enqueue", str(spec), "--root", root], ENVIRONMENTS["Latin-1"])
    Queue(tmp_path / "r").hold("ask – first", by="ada")
    out, _ = printed(["status", "--root", root], ENVIRONMENTS["Latin-1"])
    assert "ask - first" in out, "a similar character is written"
