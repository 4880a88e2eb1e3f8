"""What workers measured of their nodes, and which node is slower than others of its kind."""

from __future__ import annotations

import hashlib
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobspec.errors import RootError
from jobspec.models import devices
from jobspec.queue.entries import read_record
from jobspec.records.worker import NodeProbe
from jobspec.storage import fs
from jobspec.storage.layout import RootPaths

FEWEST_PEERS = 3
_MOST_READ = 100  # probes of other nodes that one comparison reads
_LEAST_SHARE = 2 / 3  # of the median of a node's kind
# The root is shared and may have been slow for all nodes when this one was measured.
_LATENCY_FACTOR, _LATENCY_MS = 10.0, 500.0


@dataclass(frozen=True)
class Figure:
    """One measured rate. `shared`: other processes on the node slow it down.

    Attributes:
        field: of `NodeProbe`.
    """

    field: str
    title: str
    unit: str
    shared: bool

    def of(self, probe: NodeProbe) -> float | None:
        """The figure, if it is a positive number."""
        value = getattr(probe, self.field)
        return value if value is not None and math.isfinite(value) and value > 0 else None

    def shown(self, value: float) -> str:
        return f"{value:,.3g} {self.unit}" if value < 100 else f"{value:,.0f} {self.unit}"


MATMUL = Figure("matmul_tflops", "matrix product", "TFLOP/s", shared=False)
ALL_REDUCE = Figure("all_reduce_gb_s", "all-reduce between GPUs", "GB/s", shared=False)
DISK = Figure("disk_mb_s", "node-local disk", "MB/s", shared=True)
ROOT_RATE = Figure("root_mb_s", "writing to the root", "MB/s", shared=True)
ROOT_MS = Figure("root_ms", "a small file in the root", "ms", shared=True)
FIGURES = (MATMUL, ALL_REDUCE, DISK, ROOT_RATE, ROOT_MS)
_COMPARED = (MATMUL, ALL_REDUCE, DISK)


def path_of(root: RootPaths, kind: str, host: str, uuids: Sequence[str]) -> Path:
    """The file of a node's probe: workers of one host with other GPUs have other files."""
    return root.probe(_digest(kind), host, _digest(",".join(uuids)))


def read(root: RootPaths, kind: str | None = None) -> tuple[list[NodeProbe], list[Path]]:
    """All probes, or some of one kind, by host; and the files that are no probes.

    Raises:
        OSError: the root does not answer.
    """
    names = sorted(name for name in fs.list_names(root.probes) if name.endswith(".json"))
    if kind is not None:
        names = [name for name in names if name.startswith(f"{_digest(kind)}.")]
        names = random.sample(names, min(len(names), _MOST_READ))
    found, unread = list[NodeProbe](), list[Path]()
    for path in (root.probes / name for name in names):
        probe = read_one(path)
        if probe is None:
            unread.append(path)
        elif kind in (None, probe.kind):
            found.append(probe)
    return sorted(found, key=lambda probe: (probe.host, probe.kind)), unread


def read_one(path: Path) -> NodeProbe | None:
    """One probe; None if there is none, or nothing that can be read as one.

    Raises:
        OSError: the root does not answer.
    """
    try:
        return read_record(path, NodeProbe)
    except (RootError, PermissionError, IsADirectoryError):
        return None


def slower(probe: NodeProbe, others: Sequence[NodeProbe], *, is_shared: bool = False) -> list[str]:
    """What is more than a third slower than the median of other nodes of this kind.

    Args:
        probe: of the node in question.
        others: probes; those of this host and of other kinds are left out.
        is_shared: another worker of this host runs a job now, which slows down some figures.

    Returns:
        Sentences with figures; none where fewer than three other nodes were measured.
    """
    peers = [each for each in others if each.host != probe.host and each.kind == probe.kind]
    on_cpu = not probe.uuids
    found: list[str] = []
    for figure in _COMPARED:
        if is_shared and (figure.shared or on_cpu):
            continue
        value, median, nodes = _compared(figure, probe, peers)
        if value is not None and median is not None and value < _LEAST_SHARE * median:
            found.append(_sentence(figure, value, median, nodes))
    value, median, nodes = _compared(ROOT_MS, probe, peers)
    if value is not None and median is not None and not is_shared:  # noqa: SIM102 - two conditions
        if value > max(_LATENCY_MS, _LATENCY_FACTOR * median):
            found.append(_sentence(ROOT_MS, value, median, nodes))
    return found


def shown(probe: NodeProbe, figure: Figure) -> str:
    """A figure with its unit; of a known card's product also the part of the card's peak."""
    value = figure.of(probe)
    if value is None:
        return ""
    peak = devices.peak(probe.kind) if figure is MATMUL and probe.uuids else None
    share = f" ({1e12 * value / peak:.0%} of peak)" if peak is not None else ""
    return f"{figure.shown(value)}{share}"


def summary(probe: NodeProbe) -> str:
    """The figures of a probe in one line."""
    values = ((figure, shown(probe, figure)) for figure in FIGURES)
    parts = [f"{figure.title} {value}" for figure, value in values if value]
    parts += [f"not measured: {why}" for why in probe.not_measured]
    return ", ".join([*parts, *probe.throttling]) or "nothing was measured"


def _compared(
    figure: Figure, probe: NodeProbe, peers: Sequence[NodeProbe]
) -> tuple[float | None, float | None, int]:
    """This node's value, the median of the other hosts, and how many those are."""
    of_host: dict[str, float] = {}
    for peer in peers:  # the better of several workers of one host
        value = figure.of(peer)
        if value is not None:
            better = min if figure is ROOT_MS else max
            of_host[peer.host] = better(value, of_host.get(peer.host, value))
    if len(of_host) < FEWEST_PEERS:
        return None, None, len(of_host)
    return figure.of(probe), statistics.median(of_host.values()), len(of_host)


def _sentence(figure: Figure, value: float, median: float, nodes: int) -> str:
    return (
        f"{figure.title} {figure.shown(value)}, median of {nodes} other nodes of this kind "
        f"{figure.shown(median)}"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
