"""What is shown of waits: bars in a real terminal, one plain line in a pipe, nothing if short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspec.cli.progress import waiting
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.queue_files import Format
from tests.support.commands import jobspec
from tests.support.paths import fast_dir
from tests.support.queues import W, enqueue_and_claim, queue_at, send_heartbeat
from tests.support.specs import base_spec
from tests.support.terminal import Terminal

ROW = '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}\n'
SLOW_PYTHON = "#!/bin/sh\nsleep 3\necho 'the image can not be started' >&2\nexit 1\n"


@pytest.fixture
def place() -> Iterator[Path]:
    with fast_dir() as directory:  # its path's length is the same at every run
        yield directory


def trained(place: Path, count: int) -> list[str]:
    """Specs that train on some rows and differ in their seed alone."""
    (place / "rows.jsonl").write_text(ROW * 30)
    seeds = ",".join(map(str, range(1, count + 1)))
    fields = ("--name", "qwen3-8b-instruct", "--sweep", f"train.seed={seeds}")
    arguments = ("--model", "a/b", "--data", str(place / "rows.jsonl"), "-o", str(place / "specs"))
    return jobspec("new", *arguments, *fields, cwd=place).stdout.split()


def slow_python(place: Path) -> str:
    """A command for `JOBSPEC_WORKER_COMMAND`: a container that starts slowly, and then fails."""
    script = place / "slow-python"
    script.write_text(SLOW_PYTHON)
    script.chmod(0o755)
    return str(script)


def test_a_pipe_gets_one_plain_line_and_only_of_a_long_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with waiting("checking specs", 3, after_s=0.1) as wait:
        wait.advance()
        wait.tell("b.json")
        time.sleep(0.5)
        wait.advance()
    assert capsys.readouterr().err == "checking specs, 1 of 3: b.json …\n"
    with waiting("reading rows", after_s=30):
        pass
    assert capsys.readouterr().err == ""


def test_a_check_of_rows_that_takes_long_says_so_in_a_pipe(place: Path) -> None:
    specs = trained(place, 2)
    slow = {"JOBSPEC_WORKER_COMMAND": slow_python(place)}
    done = jobspec("enqueue", *specs, "--root", place / "r", cwd=place, code=1, **slow)
    lines = done.stderr.splitlines()
    spec = Path(specs[0]).name
    first = f"checking specs, 0 of 2: {spec}: rendering and verifying the rows"
    assert lines.count(f"{first} …") == 1 and "\x1b" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("columns", [60, 80])
def test_a_terminal_shows_a_bar_while_rows_are_checked(place: Path, columns: int) -> None:
    specs = trained(place, 2)
    slow = {"JOBSPEC_WORKER_COMMAND": slow_python(place)}
    arguments = ("validate", *specs, "--root", str(place / "r"))
    terminal = Terminal(*arguments, columns=columns, env=slow)
    try:
        terminal.read_until("checking specs: qwen3-8b-")
        terminal.read_until("━")
        terminal.read_until("1 of 2")
        left = terminal.screen(code=1)
    finally:
        terminal.close()
    assert not any("━" in line for line in left), "the bar is erased"


def test_a_dumb_terminal_gets_the_plain_line(place: Path) -> None:
    specs = trained(place, 2)
    slow = {"JOBSPEC_WORKER_COMMAND": slow_python(place), "TERM": "dumb"}
    terminal = Terminal("validate", *specs, "--root", str(place / "r"), columns=80, env=slow)
    try:
        before = terminal.read_until("checking specs, 0 of 2: ")
        assert "\x1b" not in before + terminal.read_until("…")
    finally:
        terminal.close()


def test_twenty_specs_are_one_aligned_table_at_80_columns(place: Path) -> None:
    specs = trained(place, 20)
    arguments = ("enqueue", "--no-row-check", *specs, "--priority", "90")
    terminal = Terminal(*arguments, "--root", str(place / "r"), columns=80, lines=60)
    try:
        shown = terminal.screen()
    finally:
        terminal.close()
    head = next(n for n, line in enumerate(shown) if line.startswith("JOB "))
    table = shown[head:]
    assert table[0].split() == ["JOB", "PRIORITY", "STATE"] and len(table) == 21
    assert {line.index(line.split()[2]) for line in table} == {table[0].index("STATE")}
    jobs = {job.id for job in Queue(place / "r").jobs()}
    assert {line.split()[0] for line in table[1:]} == jobs
    assert all(line.split()[1:] == ["90", "enqueued"] for line in table[1:])
    again = jobspec(*arguments, "--root", place / "r")
    assert set(again.stdout.split()) == jobs, "a pipe gets ids"
    words = {word for line in again.stderr.splitlines() for word in line.split()}
    seen = {word for line in shown for word in line.split()}
    unbroken = {word for word in words if "specs" not in word and not word.startswith("qwen3")}
    assert {"safetensors", "`jobspec", "fetch"} & unbroken <= seen
    assert sum("all 20 specs" in line for line in shown) >= 2, "shared findings are printed once"


def test_reap_counts_down_until_a_lease_has_expired(place: Path) -> None:
    queue = queue_at(place, lease_s=5.0)
    claim = enqueue_and_claim(queue, base_spec(), W)
    terminal = Terminal("reap", "--root", str(queue.paths.root), columns=60)
    try:
        seconds: list[int] = []
        while not seconds or seconds[-1] > 3:
            terminal.read_until("in ")
            seconds.append(int(terminal.read_until(" s")))
        shown = terminal.screen()
    finally:
        terminal.close()
    assert seconds == sorted(seconds, reverse=True) and seconds[0] in (5, 6)
    assert claim.job in "\n".join(shown) and "1 job reaped" in shown


def test_doctor_offers_to_write_the_lease_it_recommends(place: Path) -> None:
    queue = queue_at(place, lease_s=1.0)
    root = str(queue.paths.root)
    piped = jobspec("doctor", "--seconds", "4", "--root", root, code=None)
    assert "`jobspec doctor --apply` sets heartbeat 15 s, lease 150 s" in piped.stdout
    assert lease(queue) == 1.0
    for answer, expected in (("n", 1.0), ("y", 150.0)):
        terminal = Terminal("doctor", "--seconds", "4", "--root", root, columns=120)
        try:
            terminal.read_until("Write heartbeat 15 s, lease 150 s into the root's FORMAT? [y/N]")
            terminal.type(f"{answer}\n")
            terminal.process.wait(30)
        finally:
            terminal.close()
        assert lease(queue) == expected


def test_doctor_writes_nothing_while_a_worker_is_alive(place: Path) -> None:
    queue = queue_at(place, lease_s=40.0)
    send_heartbeat(queue, W, None)
    root = queue.paths.root
    done = jobspec("doctor", "--apply", "--seconds", "4", "--root", root, code=1)
    assert "1 worker alive" in done.stderr and lease(queue) == 40.0
    queue.retire(W)
    jobspec("doctor", "--apply", "--seconds", "4", "--root", root, code=None)
    assert lease(queue) == 150.0


def lease(queue: Queue) -> float:
    layout = records.read(queue.paths.format, Format)
    assert layout is not None
    return layout.lease_s
