"""Decides by the node's probe whether a worker may claim jobs here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jobspec.errors import DiskFull
from jobspec.records.worker import NodeProbe
from worker.host.preflight import Finding
from worker.supervisor.progress_log import say

if TYPE_CHECKING:
    from worker.host.node_probe import NodeProber
    from worker.supervisor.worker import Worker

_AGAIN_S = 3600.0


class NodeCheck:
    """Probes the node before the first claim, and again once it was slow an hour ago."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._next = float("-inf") if worker.options.probe else float("inf")

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next

    def look(self, quarantine_s: float) -> list[Finding]:
        """Probe the node. A host that is slower than others of its kind is quarantined.

        Returns:
            Why the node can't run any job: a measurement on its GPUs failed or hung.
        """
        self._next = float("inf")
        try:
            probe, others = self._prober().run()
        except (OSError, DiskFull) as error:
            say(f"the node was not probed: {error}")
            return []
        if probe is None:
            if not self._worker.signals.stop:
                say("the node was not probed: other workers of this host were measuring")
            return []
        if probe.fault:
            return [Finding("probe", probe.fault, "run nvidia-smi on this node")]
        reason = "; ".join(self._complaints(probe, others))
        if not reason:
            return []
        self._next = time.monotonic() + _AGAIN_S
        worker = self._worker
        if worker.queue.quarantine(worker.host, reason, quarantine_s, worker.id, certain=False):
            say(f"this host is quarantined: {reason}")
        else:
            say(f"this host is used, as quarantine would leave too few: {reason}")
        return []

    def _prober(self) -> NodeProber:
        from worker.host.node_probe import NodeProber  # here, so that workers start fast

        worker = self._worker
        return NodeProber(
            worker.queue.paths, worker.host, worker.tmp, worker.devices, wait=self._wait, say=say
        )

    def _wait(self) -> bool:
        self._worker.try_heartbeat()
        return not self._worker.signals.stop

    def _complaints(self, probe: NodeProbe, others: list[NodeProbe]) -> list[str]:
        from jobspec.monitoring import node_probes

        found = [f"throttled, {why}" for why in probe.throttling]
        if probe.uncorrected_errors:
            found.append(f"{probe.uncorrected_errors} uncorrectable errors of GPU memory")
        if node_probes.slower(probe, others):
            found += node_probes.slower(probe, others, is_shared=self._is_shared())
        return found

    def _is_shared(self) -> bool:
        """Whether another worker of this host runs a job, which slows down what they share."""
        worker = self._worker
        return any(
            seen.job and seen.record.host == worker.host and seen.worker != worker.id
            for seen in worker.queue.workers()
        )
