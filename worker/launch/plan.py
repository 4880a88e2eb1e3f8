"""Distributes a spec's global batch over the devices. Reads no file and starts no process."""

from __future__ import annotations

from dataclasses import dataclass

from jobspec.errors import SpecError
from jobspec.spec.schema import JobSpec, TrainSpec
from worker.host.devices import WorkerDevices


@dataclass(frozen=True)
class BatchPlan:
    """How the global batch is distributed over the ranks.

    `world` / sequence_parallel × `accumulation` × `micro` is the number of its rows. Each of the
    `nodes` has the same number of ranks. Micro-batches that are cut by tokens have other numbers of
    rows; `least_memory` is for training, which chooses them.
    """

    world: int
    micro: int
    accumulation: int
    nodes: int = 1
    least_memory: bool = False

    @property
    def ranks(self) -> int:
        """Ranks on one node."""
        return self.world // self.nodes


def plan_batch(
    spec: JobSpec,
    devices: WorkerDevices,
    *,
    max_rows: int | None = None,
    least_memory: bool = False,
) -> BatchPlan:
    """Distribute the spec's global batch over the devices.

    Without `resources.gpus` it uses the largest number of devices that divides the batch.

    Args:
        spec: its global batch, `resources.gpus` and `train.sequence_parallel`.
        devices: the worker's.
        max_rows: limit of rows per micro-batch, after larger ones ran out of memory.
        least_memory: whether training must take the least memory, after it ran out.

    Raises:
        SpecError: the spec needs more devices than there are, or they do not divide the batch.
    """
    train = spec.train or TrainSpec()
    micro = min(train.per_device_train_batch_size, max_rows or train.per_device_train_batch_size)
    while train.global_batch_size % micro:
        micro -= 1
    micros, degree = train.global_batch_size // micro, train.sequence_parallel
    if degree > devices.total:
        raise SpecError(
            f"needs groups of {degree} devices, but this worker has {devices.total}",
            place="$.train.sequence_parallel",
        )
    wanted = spec.resources.gpus or _most(devices, micros, degree)
    if wanted > devices.total:
        raise SpecError(
            f"needs {wanted} devices, but this worker has {devices.total}", place="$.resources.gpus"
        )
    nodes = _nodes(wanted, devices)
    if nodes is None or wanted % degree or micros % (wanted // degree):
        raise _uneven(train, devices, wanted, micro)
    accumulation = micros // (wanted // degree)
    return BatchPlan(wanted, micro, accumulation, nodes, least_memory)


def _nodes(world: int, devices: WorkerDevices) -> int | None:
    """The smallest number of nodes over which the ranks divide evenly; None if there is none."""
    fitting = (n for n in range(1, devices.nodes + 1) if world % n == 0)
    return next((n for n in fitting if world // n <= devices.count), None)


def _most(devices: WorkerDevices, micros: int, degree: int) -> int:
    """The largest number of ranks among which the micro-batches divide evenly."""
    groups = range(1, devices.total // degree + 1)
    even = (n * degree for n in groups if micros % n == 0 and _nodes(n * degree, devices))
    return max(even, default=degree)


def _uneven(train: TrainSpec, devices: WorkerDevices, world: int, micro: int) -> SpecError:
    """The error if the batch or the nodes do not divide evenly by the number of ranks."""
    rows, degree, place = train.global_batch_size, train.sequence_parallel, "$.resources.gpus"
    if world % degree:
        return SpecError(
            f"{world} devices can't be divided into groups of {degree}",
            place="$.train.sequence_parallel",
            hint="choose a divisor of the number of devices",
        )
    if _nodes(world, devices) is None:
        return SpecError(
            f"`{world}` devices can't be spread evenly over {devices.nodes} × {devices.count}",
            place=place,
            hint="choose a number that is the same on each node",
        )
    groups = f" with {degree} devices per row" if degree > 1 else ""
    return SpecError(
        f"`{world}` devices do not divide {rows} rows a step into micro-batches of {micro}{groups}",
        place=place,
        hint=f"choose {f'{degree} × ' if degree > 1 else ''}a divisor of {rows // micro}, "
        "or another global_batch_size",
    )
