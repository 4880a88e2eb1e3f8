"""Measures the node before a worker's first claim, and keeps the figures in the root for an hour.

A child process measures (`worker.kernels.node_rates`), so that the worker imports no torch and a
measurement that hangs can be ended. Workers that share a host measure one after the other.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from jobspec.monitoring import node_probes, workers
from jobspec.records import base as records
from jobspec.records.worker import NodeProbe
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths
from worker.host import gpus, identity
from worker.host.devices import WorkerDevices

DEADLINE_S = 60.0
REUSED_S = 3600.0
_MODULE = "worker.kernels.node_rates"
_ON_GPUS = ("matrix product", "all-reduce between GPUs")
HUNG_S = 15.0  # a part that ends at the deadline hung if it took this long
_TICK_S = 0.02
_NVML_EVERY_S = 0.5
# Held while measuring. An abstract name needs no file, and ends with its process.
_LOCK = "\0jobspec-node-probe"
_decoder = msgspec.json.Decoder(dict[str, Any])


@dataclass
class Measured:
    """What the child wrote: figures by name, and the parts without figures, with the reason."""

    figures: dict[str, float] = field(default_factory=dict[str, float])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    unfinished: str = ""  # the part that it began last, if that has not ended
    began_at: float = 0.0  # when, in monotonic seconds


class NodeProber:
    """Probes this node for one worker.

    Args:
        root: of the queue.
        host: this host's name.
        tmp: the node-local directory that is measured.
        devices: the worker's; of its GPUs only these are used.
        wait: called regularly meanwhile; False ends the probe.
        say: writes a line to the worker's log.
        limit_s: seconds that it may take.
    """

    def __init__(
        self,
        root: RootPaths,
        host: str,
        tmp: Path,
        devices: WorkerDevices,
        *,
        wait: Callable[[], bool],
        say: Callable[[str], None],
        limit_s: float | None = None,
    ) -> None:
        self._root = root
        self._host = host
        self._tmp = tmp
        self._count = devices.count if devices.on_gpu else 0
        self._wait = wait
        self._say = say
        self._limit_s = DEADLINE_S if limit_s is None else limit_s

    def run(self) -> tuple[NodeProbe | None, list[NodeProbe]]:
        """This node's probe, made now or within the last hour, and those of other nodes.

        Returns:
            The probe; None if it was interrupted, or others measured until the time was over.

        Raises:
            OSError: the root does not answer.
            DiskFull: the figures can't be kept.
        """
        began = time.monotonic()
        found = gpus.answering()[: self._count]
        kind = kind_of(found)
        uuids = tuple(gpu.uuid for gpu in found)
        path = node_probes.path_of(self._root, kind, self._host, uuids)
        others, unread = node_probes.read(self._root, kind)
        for name in unread:
            self._say(f"ignored {name}: it is no probe of a node")
        if (probe := self._recent(path, kind, uuids)) is not None:
            return probe, others
        with self._alone(began + self._limit_s) as alone:
            if not alone:
                return None, others
            if (probe := self._recent(path, kind, uuids)) is not None:
                return probe, others
            probe = self._probe(NodeProbe(host=self._host, kind=kind, uuids=uuids), began, others)
            if probe is not None:
                self._say(f"node probe, {probe.seconds:.1f} s: {node_probes.summary(probe)}")
                fs.make_dir(path.parent)
                fs.publish(path, records.encode(probe))
        return probe, others

    def _recent(self, path: Path, kind: str, uuids: tuple[str, ...]) -> NodeProbe | None:
        probe = node_probes.read_one(path)
        if probe is None or (probe.host, probe.kind, probe.uuids) != (self._host, kind, uuids):
            return None
        if probe.fault or probe.throttling:
            return None  # it may be over, as after a reset
        age_s = workers.age_s(probe.at)
        if age_s is None or not 0 <= age_s < REUSED_S:
            return None
        self._say(f"node probed {age_s / 60:.0f} min ago: {node_probes.summary(probe)}")
        return probe

    def _probe(self, about: NodeProbe, began: float, others: list[NodeProbe]) -> NodeProbe | None:
        """Measure; a second time if the node seems slow, and keep the better of each figure."""
        throttling = set[str]()
        first = self._measure(began + self._limit_s, throttling)
        if first is None:
            return None
        took_s = time.monotonic() - began
        probe = self._record(about, first, throttling, began)
        again_fits = 2 * took_s < self._limit_s
        if node_probes.slower(probe, others) and not probe.fault and again_fits:
            second = self._measure(began + self._limit_s, throttling)
            if second is None:
                return None
            first.figures = _better(first.figures, second.figures)
            probe = self._record(about, first, throttling, began)
        return probe

    def _record(
        self, about: NodeProbe, found: Measured, throttling: set[str], began: float
    ) -> NodeProbe:
        failed, fault = dict(found.failed), ""
        for part in _ON_GPUS if self._count else ():
            if part in failed and part == _ON_GPUS[0]:
                fault = f"{part} on the GPUs failed: {failed[part]}"
        if found.unfinished:
            took_s = time.monotonic() - found.began_at
            failed[found.unfinished] = f"it had not ended after {took_s:.0f} s"
            if self._count and found.unfinished in _ON_GPUS and took_s > HUNG_S:
                fault = f"{found.unfinished} on the GPUs hangs"
        return msgspec.structs.replace(
            about,
            at=records.utc_now(),
            seconds=time.monotonic() - began,
            throttling=tuple(sorted(throttling)),
            uncorrected_errors=sum(gpu.uncorrected_errors for gpu in self._gpus()),
            fault=fault,
            not_measured=tuple(f"{part} ({why})" for part, why in failed.items()),
            **found.figures,
        )

    def _gpus(self) -> list[gpus.Gpu]:
        return gpus.answering()[: self._count] if self._count else []

    def _measure(self, deadline: float, throttling: set[str]) -> Measured | None:
        """Run the child and collect what it wrote until `deadline`. None if interrupted."""
        written = self._tmp / f"probe-{os.getpid()}.jsonl"
        left_s = max(1.0, deadline - time.monotonic())
        command = [sys.executable, "-m", _MODULE, self._tmp, self._root.root]
        with written.open("wb") as stream:
            child = subprocess.Popen(
                [*map(str, command), str(self._count), f"{left_s:.1f}"],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        next_look, wanted = 0.0, True
        try:
            while wanted and time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_TICK_S)
                    break
                wanted = self._wait()
                if self._count and time.monotonic() >= next_look:
                    next_look = time.monotonic() + _NVML_EVERY_S
                    for number, gpu in enumerate(self._gpus()):
                        throttling.update(f"GPU {number}: {why}" for why in gpu.throttling)
        finally:
            child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1.0)  # a process in the kernel's hands may not end
        found = read_written(written.read_bytes())
        written.unlink(missing_ok=True)
        return found if wanted else None

    @contextlib.contextmanager
    def _alone(self, deadline: float) -> Iterator[bool]:
        """Wait until no other process on this host measures; False if that takes too long."""
        with socket.socket(socket.AF_UNIX) as lock:
            while True:
                try:
                    lock.bind(_LOCK)
                    break
                except OSError:
                    time.sleep(_TICK_S)
                if time.monotonic() > deadline or not self._wait():
                    yield False
                    return
            yield True


def kind_of(found: list[gpus.Gpu]) -> str:
    """What a node is compared by: number and name of its GPUs, else cores and processor."""
    if found:
        return f"{len(found)} × {found[0].name}"
    return f"{len(os.sched_getaffinity(0))} cores of {identity.cpu()}"


def read_written(data: bytes) -> Measured:
    """What the child wrote; a torn last line is left out."""
    found = Measured()
    for line in data.splitlines():
        try:
            row = _decoder.decode(line)
        except msgspec.MsgspecError:
            continue
        if "begins" in row:
            found.unfinished, found.began_at = row["begins"], row["at"]
        elif "failed" in row:
            found.failed[row["failed"]] = row["why"]
            found.unfinished = ""
        else:
            found.figures |= row["figures"]
            found.unfinished = ""
    return found


def _better(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    lower = {node_probes.ROOT_MS.field, "clock_ahead_s"}
    return first | {
        name: (min if name in lower else max)(value, first.get(name, value))
        for name, value in second.items()
    }
