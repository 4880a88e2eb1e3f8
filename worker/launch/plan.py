"""How the spec's global batch is spread over the devices. Reads no file and starts no process."""

from __future__ import annotations

from dataclasses import dataclass

from jobspec.errors import SpecError
from jobspec.spec.schema import JobSpec, TrainSpec
from worker.host.devices import WorkerDevices


@dataclass(frozen=True)
class BatchPlan:
    """How the fixed global batch is spread: `world` ranks on `nodes` nodes, the same number on
    each; `world` / sequence_parallel × `accumulation` × `micro` rows."""

    world: int
    micro: int
    accumulation: int
    nodes: int = 1

    @property
    def ranks(self) -> int:
        """Ranks on one node."""
        return self.world // self.nodes


def plan_batch(spec: JobSpec, devices: WorkerDevices, *, max_rows: int | None = None) -> BatchPlan:
    """Spread the spec's global batch over the devices.

    Without `resources.gpus` the most devices that divide the batch are used.

    Args:
        max_rows: rows a micro-batch may have, where more were seen not to fit into memory.

    Raises:
        SpecError: the spec wants devices that are not there, or that do not divide the batch.
    """
    train = spec.train or TrainSpec()
    micro = min(train.per_device_train_batch_size, max_rows or train.per_device_train_batch_size)
    while train.global_batch_size % micro:
        micro -= 1
    share, degree = train.global_batch_size // micro, train.sequence_parallel
    if degree > devices.total:
        raise SpecError(
            f"wants groups of {degree} devices, {devices.total} are here",
            place="$.train.sequence_parallel",
        )
    wanted = spec.resources.gpus or _most(devices, share, degree)
    if wanted > devices.total:
        raise SpecError(
            f"wants {wanted} devices, {devices.total} are here", place="$.resources.gpus"
        )
    nodes = _nodes(wanted, devices)
    if nodes is None or wanted % degree or share % (wanted // degree):
        raise _uneven(train, devices, wanted, micro)
    return BatchPlan(wanted, micro, share // (wanted // degree), nodes)


def _nodes(world: int, devices: WorkerDevices) -> int | None:
    """The fewest nodes that so many ranks can be spread over evenly; None where none can."""
    fitting = (n for n in range(1, devices.nodes + 1) if world % n == 0)
    return next((n for n in fitting if world // n <= devices.count), None)


def _most(devices: WorkerDevices, share: int, degree: int) -> int:
    """The most ranks that leave none idle: one group's, if nothing else does."""
    groups = range(1, devices.total // degree + 1)
    even = (n * degree for n in groups if share % n == 0 and _nodes(n * degree, devices))
    return max(even, default=degree)


def _uneven(train: TrainSpec, devices: WorkerDevices, world: int, micro: int) -> SpecError:
    """Why so many ranks can't share the batch, or the nodes, evenly."""
    rows, degree, place = train.global_batch_size, train.sequence_parallel, "$.resources.gpus"
    if world % degree:
        return SpecError(
            f"groups of {degree} can't be made of {world} devices",
            place="$.train.sequence_parallel",
            hint="choose a divisor of the devices",
        )
    if _nodes(world, devices) is None:
        return SpecError(
            f"`{world}` devices can't be taken evenly from {devices.nodes} × {devices.count}",
            place=place,
            hint="choose as many on each node",
        )
    groups = f" with {degree} devices a row" if degree > 1 else ""
    return SpecError(
        f"`{world}` devices do not divide {rows} rows a step into micro-batches of {micro}{groups}",
        place=place,
        hint=f"choose {f'{degree} × ' if degree > 1 else ''}a divisor of {rows // micro}, "
        "or another global_batch_size",
    )
