"""A real Slurm on this machine: munge, a controller and two nodes, all state below one directory.

A node is a namespace of processes with a host name of its own: `power_off` ends all of it at once,
`partitioned` stops its daemon, which the controller then gives up while the node's work goes on.
It needs root and Debian's packages `slurmctld slurmd slurm-client munge`. To look at it by hand:

    python tests/support/slurm.py DIR     until Ctrl-C; then, in another shell,
    export SLURM_CONF=DIR/slurm.conf
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import until

NODES = ("n1", "n2")
CLUSTER = "testcluster"
KILL_WAIT_S = 20
_SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")
_UP_WITHIN_S = 60.0
_NODE = """
hostname "$1" && mount --bind "$2/hosts" /etc/hosts && mount --bind "$2/disk-$1" "$2/d" &&
exec slurmd -D -N "$1"
"""


@dataclass
class Node:
    """One compute node. `process` is its namespace's outer end: killing that is power-off."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def slurmd(self) -> int:
        """PID of its daemon, as seen from outside."""
        return _children(self.process.pid)[0]

    def power_off(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Slurm:
    """A running cluster."""

    base: Path
    controller: subprocess.Popen[bytes]
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command of Slurm's; what it printed."""
        done = subprocess.run(
            command, cwd=cwd, env=self.env, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    @property
    def node_tmp(self) -> Path:
        """On each node a disk of its own; `left_on` tells what is on it."""
        return self.base / "d"

    def left_on(self, node: str) -> list[str]:
        """The names on a node's own disk."""
        return [path.name for path in (self.base / f"disk-{node}").iterdir()]

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JOBSPEC_"))}
        return kept | {"SLURM_CONF": str(self.base / "slurm.conf"), "PATH": _SEARCH}

    def job(self, element: str) -> dict[str, str]:
        """What `scontrol show job` says of one element: JobState, Restarts, BatchHost, …"""
        words = self.call("scontrol", "--oneliner", "show", "job", element).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state_of(self, element: str) -> str:
        return self.job(element)["JobState"]

    def start_node(self, name: str) -> None:
        for left in (self.base / f"disk-{name}").iterdir():  # a boot empties it
            shutil.rmtree(left)
        log = (self.base / "log" / f"{name}.out").open("ab")
        command = ["unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        command += ["sh", "-c", _NODE, "sh", name, str(self.base)]
        with log:
            process = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.nodes[name] = Node(name, process)

    def wait_for_nodes(self, *names: str) -> None:
        """Until these nodes, or all, can take jobs."""

        def up() -> bool:
            told = self.call("sinfo", "--noheader", "--Node", "--format=%N %T")
            states = dict(line.split() for line in told.splitlines())
            return all(states.get(name) in ("idle", "mixed", "allocated") for name in names)

        names = names or NODES
        until(up, f"nodes {names}", _UP_WITHIN_S)

    @contextlib.contextmanager
    def partitioned(self, name: str) -> Iterator[None]:
        """The controller no longer reaches a node; what runs there runs on."""
        slurmd = self.nodes[name].slurmd
        os.kill(slurmd, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(slurmd, signal.SIGCONT)

    @contextlib.contextmanager
    def controller_down(self) -> Iterator[None]:
        """Nobody answers squeue, sbatch and scontrol. Its state is kept."""
        self.controller.terminate()
        self.controller.wait(30)
        try:
            yield
        finally:
            self.controller = _daemon(self, "slurmctld", "-D")
            until(lambda: _answers(self), "the controller", _UP_WITHIN_S)


def missing() -> str | None:
    """Why it can't run here; None if it can."""
    if os.geteuid() != 0:
        return "needs root for namespaces and daemons"
    absent = [tool for tool in _TOOLS if shutil.which(tool, path=_SEARCH) is None]
    return f"needs slurmctld, slurmd, slurm-client, munge (no {absent})" if absent else None


@contextlib.contextmanager
def running(base: Path) -> Iterator[Slurm]:
    """A cluster of two nodes below `base`, for the length of the block."""
    for name in ("munge", "log", "state", "spool", "d", *(f"disk-{node}" for node in NODES)):
        (base / name).mkdir(parents=True)
    for path in (base, base / "munge"):
        path.chmod(0o711)  # munge wants its socket to be within everybody's reach
    (base / "munge" / "key").write_bytes(os.urandom(1024))
    (base / "munge" / "key").chmod(0o600)
    (base / "hosts").write_text("127.0.0.1 localhost " + " ".join(NODES) + "\n")
    (base / "slurm.conf").write_text(_configuration(base, _free_ports(3)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_munge(base))
        slurm = Slurm(base, None)  # type: ignore[arg-type] - started with the environment it makes
        slurm.controller = _daemon(slurm, "slurmctld", "-D")
        stack.callback(lambda: _end(slurm.controller))
        until(lambda: _answers(slurm), "the controller", _UP_WITHIN_S)
        stack.callback(lambda: [node.power_off() for node in slurm.nodes.values()])
        for name in NODES:
            slurm.start_node(name)
        slurm.wait_for_nodes()
        yield slurm


def _configuration(base: Path, ports: list[int]) -> str:
    host = socket.gethostname().split(".")[0]
    settings = {
        "ClusterName": CLUSTER,
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        # A credential that lives long keeps a requeued job waiting for as long.
        "AuthInfo": f"socket={base}/munge/socket,cred_expire=5",
        "StateSaveLocation": base / "state",
        "SlurmdSpoolDir": f"{base}/spool/%n",
        "SlurmctldPidFile": base / "slurmctld.pid",
        "SlurmdPidFile": f"{base}/spool/%n.pid",
        "SlurmctldLogFile": base / "log" / "slurmctld.log",
        "SlurmdLogFile": f"{base}/log/slurmd.%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SchedulerParameters": "batch_sched_delay=1,sched_interval=2",
        "ReturnToService": 2,
        "JobRequeue": 1,
        "KillWait": KILL_WAIT_S,
        "SlurmdTimeout": 5,
        "MessageTimeout": 5,  # a node is given up after three that were not answered
        "SlurmctldTimeout": 10,
        "MinJobAge": 300,
        "SlurmdParameters": "config_overrides",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    for name, port in zip(NODES, ports[1:], strict=True):
        where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
        lines.append(f"NodeName={name} {where} CPUs=1 RealMemory=8000 State=UNKNOWN")
    lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _munge(base: Path) -> Iterator[None]:
    own = base / "munge"
    command = [_tool("munged"), "--foreground", f"--key-file={own}/key", f"--socket={own}/socket"]
    command += [f"--pid-file={own}/pid", f"--log-file={own}/log", f"--seed-file={own}/seed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until((own / "socket").exists, "munge", _UP_WITHIN_S)
        yield
    finally:
        _end(process)


def _daemon(slurm: Slurm, tool: str, *options: str) -> subprocess.Popen[bytes]:
    with (slurm.base / "log" / f"{tool}.out").open("ab") as log:
        return subprocess.Popen([_tool(tool), *options], env=slurm.env, stdout=log, stderr=log)


def _answers(slurm: Slurm) -> bool:
    asked = subprocess.run(["scontrol", "ping"], env=slurm.env, capture_output=True, check=False)
    return b"is UP" in asked.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tool(name: str) -> str:
    found = shutil.which(name, path=_SEARCH)
    assert found is not None
    return found


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    with running(Path(sys.argv[1]).absolute()), contextlib.suppress(KeyboardInterrupt):
        signal.pause()
