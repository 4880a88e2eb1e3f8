"""Ranks on several nodes: real coordinators, agents and rank launchers on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspec.records import exit_codes
from jobspec.storage.layout import AttemptPaths
from tests.support.nodes import launcher
from tests.support.paths import REPOSITORY
from tests.support.waiting import until
from worker.launch import command as commands
from worker.process import node_agent

RANK = """
import json, os, pathlib, signal, subprocess, sys, time
rank, out = os.environ["RANK"], pathlib.Path(sys.argv[1])
def stop(*_):
    (out / f"stopped{rank}").touch()
    os._exit(75)
signal.signal(signal.SIGUSR2, stop)
subprocess.Popen(["setsid", "sleep", "1000.%d" % os.getpid()])
print("rank", rank, flush=True)
(out / f"up{rank}.tmp").write_text(json.dumps(dict(os.environ)))
(out / f"up{rank}.tmp").rename(out / f"up{rank}")
seconds, code = sys.argv[2 + int(rank)].split(":")
time.sleep(float(seconds))
sys.exit(int(code))
"""


class Nodes:
    """A phase of scripts in the place of ranks: two nodes, one directory."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        (directory / "rank.py").write_text(RANK)

    def command(
        self, *behaviour: str, isolation: str = "auto", before: str = "", each: str = ""
    ) -> list[str]:
        """Behaviour: seconds:exit code, a rank each, the same number on both nodes."""
        layout = commands.NodeLayout(
            nodes=2,
            ranks=len(behaviour) // 2,
            tmp=self.dir / "t",
            launcher=launcher(self.dir, before=before, each=each),
            isolation=isolation,
        )
        log = AttemptPaths(self.dir).log("train")
        command = commands.multi_node_command("worker.x", self.dir, log, layout)
        ranks = [sys.executable, str(self.dir / "rank.py"), str(self.dir), *behaviour]
        command[3:3] = ["--grace", "1"]
        last = len(command) - 1 - command[::-1].index("--")
        return [*command[: last + 1], *ranks]

    @contextlib.contextmanager
    def started(self, *behaviour: str, **options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start them, wait until every rank is up."""
        with (self.dir / "train.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(*behaviour, **options),
                cwd=self.dir,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            for rank in range(len(behaviour)):
                until((self.dir / f"up{rank}").exists, f"rank {rank}")
            yield process
        finally:
            process.kill()
            process.wait()
            sys.stdout.write((self.dir / "train.log").read_text())

    def run(self, *behaviour: str, **options: str) -> int:
        """Run them to their end; the exit code. They may not come up at all."""
        with (self.dir / "train.log").open("ab") as log:
            done = subprocess.run(
                self.command(*behaviour, **options),
                cwd=self.dir,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=log,
                stderr=log,
                check=False,
                timeout=60,
            )
        return done.returncode

    def seen(self, rank: int) -> dict[str, str]:
        return json.loads((self.dir / f"up{rank}").read_text())

    def alive(self, *words: str) -> list[int]:
        """PIDs in this directory that run one of these; by default ranks and their daemons."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = b" ".join((entry / "cmdline").read_bytes().split(b"\0")[:3]).decode()
                here = str((entry / "cwd").readlink()) == str(self.dir)
                if here and any(word in line for word in words or ("rank.py", "sleep 1000.")):
                    found.append(int(entry.name))
        return found


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


def test_ranks_are_numbered_through_and_each_node_has_a_log(nodes: Nodes) -> None:
    assert nodes.run("0:0", "0:0", "0.1:0", "0:0") == 0
    seen = [nodes.seen(rank) for rank in range(4)]
    assert [(s["RANK"], s["LOCAL_RANK"]) for s in seen] == [
        ("0", "0"),
        ("1", "1"),
        ("2", "0"),
        ("3", "1"),
    ]
    assert {(s["WORLD_SIZE"], s["LOCAL_WORLD_SIZE"]) for s in seen} == {("4", "2")}
    assert len({(s["MASTER_ADDR"], s["MASTER_PORT"]) for s in seen}) == 1
    assert sorted((nodes.dir / "train.log").read_text().split("\n")) == ["", "rank 0", "rank 1"]
    others = (nodes.dir / "train.node1.log").read_text()
    assert sorted(others.split("\n")) == ["", "rank 2", "rank 3"]
    assert not (nodes.dir / "t").exists()
    until(lambda: not nodes.alive(), "a daemon was left alive")


@pytest.mark.parametrize("other", ["0.5:9", "100:0"], ids=["fails later", "hangs"])
def test_the_first_failing_ranks_code_counts_and_the_others_end_with_it(
    nodes: Nodes, other: str
) -> None:
    """A launcher would give the highest code, 9, or wait."""
    assert nodes.run(other, "0:5") == 5
    until(lambda: not nodes.alive(), "something was left alive")


def test_a_stop_reaches_every_rank_on_every_node(nodes: Nodes) -> None:
    with nodes.started("100:0", "100:0") as head:
        head.send_signal(signal.SIGUSR2)
        assert head.wait(30) == 75
    assert (nodes.dir / "stopped0").exists() and (nodes.dir / "stopped1").exists()
    until(lambda: not nodes.alive(), "something was left alive")


@pytest.mark.parametrize("isolation", ["auto", "subreaper"])
@pytest.mark.parametrize(
    "killed", ["worker.process.coordinator", "launcher.sh", "worker.process.node_agent"]
)
def test_nothing_outlives_what_was_killed(nodes: Nodes, killed: str, isolation: str) -> None:
    """kill -9 of the head (as when its worker dies), of the launcher, and of one node's process."""
    with nodes.started("100:0", "100:0", isolation=isolation) as head:
        os.kill(min(nodes.alive(killed)), signal.SIGKILL)
        until(lambda: not nodes.alive("rank.py"), "a rank is alive", 5.0)
        code = head.wait(15)
    assert code == (
        -signal.SIGKILL if killed == "worker.process.coordinator" else exit_codes.NODE_LOST
    )
    until(lambda: not nodes.alive("sleep 1000.", "worker."), "something was left alive", 5.0)


def test_a_node_without_its_gpus_is_named_before_anything_starts(nodes: Nodes) -> None:
    assert nodes.run("0:0", "0:0", each="env SLURM_GPUS_ON_NODE=1") == exit_codes.NODE_LOST
    said = (nodes.dir / "train.log").read_text()
    assert f"{socket.gethostname()} is unfit: CUDA unavailable: Slurm allocated 1 GPUs" in said
    assert not (nodes.dir / "up0").exists()


def test_a_launcher_that_starts_nothing_is_no_wait(nodes: Nodes) -> None:
    assert nodes.run("0:0", "0:0", before="exit 3") == exit_codes.NODE_LOST
    assert "the launcher exited with 3" in (nodes.dir / "train.log").read_text()


def test_who_does_not_know_the_secret_is_no_node(nodes: Nodes) -> None:
    """A stranger says hello first, twice: with another secret, and with what is no message."""
    stranger = nodes.dir / "stranger.py"
    stranger.write_text(
        "import json, os, socket, sys\n"
        "place = sys.argv[sys.argv.index('--head') + 1].split(',')[0].rpartition(':')\n"
        "hello = {'secret': 'x', 'host': 'a', 'order': -1, 'port': 1}\n"
        "for said in (json.dumps(hello), 'no message'):\n"
        "    with socket.create_connection((place[0], int(place[2]))) as link:\n"
        "        link.sendall(said.encode() + b'\\n')\n"
        "        assert link.recv(100) == b'', 'it was answered'\n"
    )
    before = f'{sys.executable} {stranger} "$@" || exit 9'
    assert nodes.run("0:0", "0:0", before=before) == 0
    assert nodes.seen(0)["WORLD_SIZE"] == "2"


def test_somebody_elses_directory_is_not_written_to(tmp_path: Path) -> None:
    assert node_agent.make_directory(tmp_path / "a" / "t") is True
    assert (tmp_path / "a" / "t").stat().st_mode & 0o777 == 0o700
    assert node_agent.make_directory(tmp_path / "a" / "t") is False
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(PermissionError, match="belongs to another user"):
        node_agent.make_directory(tmp_path / "link")
