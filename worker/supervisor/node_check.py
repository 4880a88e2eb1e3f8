"""Decides by the probes of a worker's nodes whether the worker may claim jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobspec.errors import DiskFull
from jobspec.records.worker import NodeProbe
from worker.host.preflight import Finding
from worker.supervisor.progress_log import say

if TYPE_CHECKING:
    from worker.supervisor.worker import Worker

_AGAIN_S = 3600.0


class NodeCheck:
    """Probes the nodes before the first claim, and again once one was slow an hour ago."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._next = float("-inf") if worker.options.probe else float("inf")
        self._others: tuple[str, ...] = ()  # the worker's other nodes, once they were probed

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next

    def why_quarantined(self) -> str:
        """Which of the worker's nodes is in quarantine and why; empty if none is."""
        worker = self._worker
        mark = worker.queue.quarantined_host(worker.host)
        if mark is not None:
            return f"this host is in quarantine: {mark.reason}"
        marks = worker.queue.quarantined() if self._others else {}
        return "; ".join(
            f"{host}, a node of this worker, is in quarantine: {marks[host].reason}"
            for host in self._others
            if host in marks
        )

    def look(self, quarantine_s: float) -> list[Finding]:
        """Probe the nodes. A host that is slower than others of its kind is quarantined.

        Returns:
            Why a node can't run any job: a measurement on its GPUs failed or hung.
        """
        self._next = float("inf")
        if self._worker.devices.nodes > 1:
            return self._look_at_all(quarantine_s)
        probe, others = self._probe_own(self._wait)
        return self._judge(probe, others, quarantine_s) if probe is not None else []

    def _look_at_all(self, quarantine_s: float) -> list[Finding]:
        from jobspec.monitoring import node_probes
        from worker.supervisor.probe_nodes import probe_all

        worker = self._worker
        found = probe_all(worker, lambda wait: self._probe_own(wait)[0], self._wait)
        if worker.signals.stop:
            return []
        self._others, findings = found.hosts, found.findings
        try:
            worker.send_heartbeat(nodes=self._others)
            for probe in found.probes:
                peers, _ = node_probes.read(worker.queue.paths, probe.kind)
                findings += self._judge(probe, peers, quarantine_s)
        except OSError:
            self._next = float("-inf")  # the probes are in the root and will be used then
            raise
        return findings

    def _probe_own(self, wait: Callable[[], bool]) -> tuple[NodeProbe | None, list[NodeProbe]]:
        """The probe of this node, None if there is none, and those of others of its kind."""
        from worker.host.node_probe import NodeProber  # here, so that workers start fast

        worker = self._worker
        prober = NodeProber(
            worker.queue.paths, worker.host, worker.tmp, worker.devices, wait=wait, say=say
        )
        try:
            probe, others = prober.run()
        except (OSError, DiskFull) as error:
            say(f"the node was not probed: {error}")
            return None, []
        if probe is None and not worker.signals.stop:
            say("the node was not probed: other workers of this host were measuring")
        return probe, others

    def _judge(
        self, probe: NodeProbe, others: list[NodeProbe], quarantine_s: float
    ) -> list[Finding]:
        worker = self._worker
        is_own = probe.host == worker.host
        if probe.fault:
            hint = f"run nvidia-smi on {'this node' if is_own else probe.host}"
            if worker.devices.nodes == 1:
                return [Finding("probe", probe.fault, hint)]
            return [Finding("probe", f"{probe.host}: {probe.fault}", hint, host=probe.host)]
        reason = "; ".join(self._complaints(probe, others))
        if not reason:
            return []
        self._next = time.monotonic() + _AGAIN_S
        who = "this host" if is_own else probe.host
        if worker.queue.quarantine(probe.host, reason, quarantine_s, worker.id, certain=False):
            say(f"{who} is quarantined: {reason}")
        else:
            say(f"{who} is used, as quarantine would leave too few: {reason}")
        return []

    def _wait(self) -> bool:
        self._worker.try_heartbeat()
        return not self._worker.signals.stop

    def _complaints(self, probe: NodeProbe, others: list[NodeProbe]) -> list[str]:
        from jobspec.monitoring import node_probes

        found = [f"throttled, {why}" for why in probe.throttling]
        if probe.uncorrected_errors:
            found.append(f"{probe.uncorrected_errors} uncorrectable errors of GPU memory")
        if node_probes.slower(probe, others):
            found += node_probes.slower(probe, others, is_shared=self._is_shared(probe.host))
        return found

    def _is_shared(self, host: str) -> bool:
        """Whether another worker of this host runs a job, which slows down what they share."""
        worker = self._worker
        return any(
            seen.job and host in (seen.record.host, *seen.record.nodes) and seen.worker != worker.id
            for seen in worker.queue.workers()
        )
