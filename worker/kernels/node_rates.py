"""Measures the rates of this node, as a child process of the worker that probes it.

    python -m worker.kernels.node_rates TMP ROOT GPUS SECONDS

It writes one line of JSON when a part begins and one with its figures, so that the worker sees how
far it came if it hangs. The names of figures are fields of `NodeProbe`.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobspec.doctor import probes
from jobspec.errors import JobspecError
from worker.program import run_program

_GPU_S = 1.5  # of matrix products on all GPUs at once
_GPU_SIZE = 8192
_REDUCED = 1 << 28  # bytes of each GPU
_CPU_S = 0.15
_DISK_S = 5.0
_MIB = 1 << 20


def main() -> None:
    tmp, root, gpus, seconds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    signal.alarm(int(float(seconds)) + 1)  # ends it also if its worker was killed
    size = (64 if gpus else 16) * _MIB
    for name, measure in _parts(tmp, root, gpus, size):
        _write(begins=name, at=time.monotonic())
        try:
            figures = measure()
        except (OSError, JobspecError, RuntimeError, ImportError, ValueError, MemoryError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            _write(failed=name, why=said[:200])
            continue
        _write(figures=figures)


def _parts(
    tmp: Path, root: Path, gpus: int, size: int
) -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """The parts in order, each with its name in messages."""
    if gpus:
        yield "import of torch", _import_torch
        yield "matrix product", lambda: _gpu_products(gpus)
        if gpus > 1:
            yield "all-reduce between GPUs", lambda: _all_reduce(gpus)
    else:
        yield "matrix product", _cpu_product
    yield "node-local disk", lambda: {"disk_mb_s": _written_mb_s(tmp, size)}
    yield "root", lambda: _root(root, size // 2)


def _import_torch() -> dict[str, float]:
    import torch

    torch.cuda.init()
    return {}


def _gpu_products(gpus: int) -> dict[str, float]:
    """Multiply on all GPUs at once, as training does; each GPU's rate is a median of batches."""
    import torch

    old = torch.version.cuda is not None and torch.cuda.get_device_capability()[0] < 8
    kind = torch.float16 if old else torch.bfloat16
    shape = (_GPU_SIZE, _GPU_SIZE)
    given = [torch.randn(shape, device=f"cuda:{gpu}", dtype=kind) for gpu in range(gpus)]
    pairs = [(tensor, torch.empty_like(tensor)) for tensor in given]
    rates: list[list[float]] = [[] for _ in pairs]
    _products(pairs, 2)  # loads the kernels
    deadline = time.monotonic() + _GPU_S
    while time.monotonic() < deadline or len(rates[0]) < 3:
        for each, elapsed_s in zip(rates, _products(pairs, 10), strict=True):
            each.append(10 * 2 * _GPU_SIZE**3 / elapsed_s / 1e12)
    free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in range(gpus))
    used = sum(tensor.nbytes for tensor in pairs[0])
    return {
        "matmul_tflops": min(statistics.median(each) for each in rates),
        "gpu_free_gib": (free + used) / 2**30,
    }


def _products(pairs: list[tuple[Any, Any]], count: int) -> list[float]:
    """Seconds that each GPU took for `count` products of its own."""
    import torch

    events: list[tuple[Any, Any]] = []
    for gpu, (given, product) in enumerate(pairs):
        with torch.cuda.device(gpu):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(count):
                torch.mm(given, given, out=product)
            end.record()
            events.append((start, end))
    for _, end in events:
        end.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def _all_reduce(gpus: int) -> dict[str, float]:
    """Bus bandwidth: 2 (n - 1) / n of the bytes pass each link. Source: nccl-tests, PERFORMANCE."""
    import torch
    from torch.cuda import nccl

    size = _REDUCED // 2
    tensors = [torch.ones(size, device=f"cuda:{gpu}", dtype=torch.half) for gpu in range(gpus)]
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        nccl.all_reduce(tensors)
        for gpu in range(gpus):
            torch.cuda.synchronize(gpu)
        elapsed_s = time.perf_counter() - began
        best = max(best, 2 * (gpus - 1) / gpus * _REDUCED / elapsed_s / 1e9)
    return {"all_reduce_gb_s": best}


def _cpu_product() -> dict[str, float]:
    """The best of several products on all cores, because other processes may run too."""
    import numpy as np

    size = 1024 if len(os.sched_getaffinity(0)) < 16 else 4096
    given = np.full((size, size), 0.5, dtype=np.float32)
    product, best = given @ given, 0.0
    deadline = time.monotonic() + _CPU_S
    while not best or time.monotonic() < deadline:
        began = time.perf_counter()
        np.matmul(given, given, out=product)
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e12)
    return {"matmul_tflops": best}


def _root(root: Path, size: int) -> dict[str, float]:
    """How long small files take in the root, how fast large ones are written, and its clock."""
    with probes.workspace(root) as space:
        costs, clock = probes.costs(space, 0.2), probes.server_clock(space)
        rate = _written_mb_s(space, size)
    return {
        "root_ms": costs.publish.median_s * 1e3,
        "root_mb_s": rate,
        "clock_ahead_s": clock.ahead_s,
    }


def _written_mb_s(folder: Path, size: int) -> float:
    """The best of three files of `size` bytes, each written and fsynced."""
    data = os.urandom(_MIB) * (size // _MIB)
    path, best = folder / f"probe-{os.getpid()}", 0.0
    deadline = time.monotonic() + _DISK_S
    try:
        for _ in range(3):
            began = time.perf_counter()
            with path.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            best = max(best, size / (time.perf_counter() - began) / 1e6)
            if time.monotonic() > deadline:
                break
    finally:
        path.unlink(missing_ok=True)
    return best


def _write(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_program(main)
