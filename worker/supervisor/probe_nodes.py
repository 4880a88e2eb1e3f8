"""Probes all nodes of a worker at the same time, before its first claim.

The worker probes its own node. The launcher starts a `worker.supervisor.probe_agent` on each node,
which connects to the worker and sends back its probe. A minute is the limit for all together.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec.records.worker import NodeProbe
from worker.host import node_probe, scheduler_env
from worker.host.preflight import Finding
from worker.process.channel import Connection
from worker.process.node_launcher import NodeLauncher
from worker.supervisor.helping import last_line
from worker.supervisor.progress_log import say

if TYPE_CHECKING:
    from worker.supervisor.worker import Worker

_AGENT = "worker.supervisor.probe_agent"
_TICK_S = 0.05
_RESERVE_S = 3.0  # a node's own limit ends this much earlier, so that its answer arrives in time
_LAST_MESSAGES_S = 2.0  # wait for messages that nodes sent just before the launcher ended
_GRACE_S = 5.0


@dataclass
class ProbedNodes:
    """The probes of a worker's nodes.

    Attributes:
        probes: also that of the worker's own node.
        hosts: the other nodes that answered.
        findings: the nodes whose probe hangs.
    """

    probes: list[NodeProbe] = field(default_factory=list[NodeProbe])
    hosts: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list[Finding])


@dataclass
class _Node:
    """A connected node. `failed`: why it has no probe."""

    link: Connection
    host: str
    name: str
    began: float
    probe: NodeProbe | None = None
    failed: str = ""
    is_own: bool = False

    @property
    def has_ended(self) -> bool:
        return self.is_own or self.probe is not None or bool(self.failed)


def probe_all(
    worker: Worker,
    own: Callable[[Callable[[], bool]], NodeProbe | None],
    wait: Callable[[], bool],
) -> ProbedNodes:
    """Probe all nodes of a worker. If the launcher fails, only its own.

    Args:
        worker: the worker.
        own: probes the worker's own node, and calls its argument regularly meanwhile.
        wait: called regularly; False ends the probes.
    """
    try:
        others = _OtherNodes(worker)
    except (OSError, LookupError, ValueError) as error:
        say(f"the other nodes were not probed: {error}")
        probe = own(wait)
        return ProbedNodes([probe] if probe is not None else [])

    def listen_and_wait() -> bool:
        others.listen(0.0)
        return wait()

    try:
        probe = own(listen_and_wait)
        while wait() and not others.have_ended:
            others.listen(_TICK_S)
        result = others.result() if wait() else ProbedNodes()
    finally:
        others.end()
    if probe is not None:
        result.probes.insert(0, probe)
    return result


class _OtherNodes:
    """The nodes that the launcher starts. One of them is the worker's own, which is not probed."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._count = worker.devices.nodes
        self._limit_s = node_probe.DEADLINE_S
        self._deadline = time.monotonic() + self._limit_s
        self._launcher_ended = float("inf")
        self._nodes: list[_Node] = []
        gpus = worker.devices.count if worker.devices.on_gpu else 0
        agent = [sys.executable, "-m", _AGENT, "--root", str(worker.root)]
        agent += ["--tmp", str(worker.tmp), "--gpus", str(gpus)]
        self._log = worker.tmp / "launcher.log"
        with self._log.open("wb") as log:
            self._launcher = NodeLauncher(worker.options.launcher, self._count, agent, log=log)

    @property
    def have_ended(self) -> bool:
        """Whether nothing more is to be expected of any node."""
        if len(self._nodes) >= self._count and all(node.has_ended for node in self._nodes):
            return True
        if self._launcher.process.poll() is not None:
            self._launcher_ended = min(self._launcher_ended, time.monotonic())
        return time.monotonic() > min(self._deadline, self._launcher_ended + _LAST_MESSAGES_S)

    def listen(self, timeout_s: float) -> None:
        """Receive what nodes have sent, or send within `timeout_s`."""
        links = [node.link for node in self._nodes]
        for link, messages in self._launcher.receive(links, timeout_s):
            node = next((node for node in self._nodes if node.link is link), None)
            if node is None:
                node = self._greet(link, messages.pop(0))
            for message in messages:
                self._receive(node, message)
            if not link.open and not node.has_ended:
                node.failed = "its process ended"

    def _greet(self, link: Connection, hello: dict[str, Any]) -> _Node:
        node = _Node(link, hello["host"], hello["name"], time.monotonic())
        self._nodes.append(node)
        if node.host == self._worker.host:
            node.is_own = True
            link.close()
        else:
            link.send(seconds=max(1.0, self._deadline - node.began - _RESERVE_S))
        return node

    def _receive(self, node: _Node, message: dict[str, Any]) -> None:
        for line in message["said"]:
            say(f"{node.host}: {line}")
        node.failed = message.get("failed", "")
        if not node.failed:
            node.probe = msgspec.convert(message["probe"], NodeProbe)

    def result(self) -> ProbedNodes:
        """The probes, after the log was told which nodes have none."""
        others = [node for node in self._nodes if not node.is_own]
        found = ProbedNodes(hosts=tuple(dict.fromkeys(node.host for node in others)))
        for node in others:
            took_s = time.monotonic() - node.began
            if node.probe is not None:
                found.probes.append(node.probe)
            elif not node.failed and took_s > node_probe.HUNG_S:
                message = f"{node.host}: its probe had not ended after {took_s:.0f} s"
                hint = f"log in to {node.host} and run nvidia-smi there"
                found.findings.append(Finding("probe", message, hint, host=node.host))
            else:
                say(f"{node.host} was not probed: {node.failed or 'it was connected too late'}")
        if len(others) < self._count - 1:
            self._say_missing(self._count - 1 - len(others))
        return found

    def _say_missing(self, lacking: int) -> None:
        scheduler = self._worker.scheduler
        known = {scheduler.node_name, *(node.name for node in self._nodes)}
        names = [
            each for each in scheduler_env.node_names(scheduler.node_list) if each not in known
        ]
        who = f"{lacking} of {self._count - 1} other nodes"
        if lacking == self._count - 1:
            who = "the other nodes"
        if len(names) == lacking:
            who = f"{who} ({', '.join(names)})"
        why = f"no answer within {self._limit_s:.0f} s"
        if (code := self._launcher.process.poll()) is not None:
            said = last_line(self._log)
            why = f"the launcher exited with {code}{': ' if said else ''}{said}"
        say(f"{who} were not probed: {why}")

    def end(self) -> None:
        """Disconnect from the nodes, which then end their probes, and end the launcher."""
        links = [node.link for node in self._nodes]
        is_complete = len(links) >= self._count and all(node.has_ended for node in self._nodes)
        self._launcher.end(links, _GRACE_S, terminate=not is_complete)
