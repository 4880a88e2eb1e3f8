"""Is this node fit to take a job? Checked before every claim; a node that is not takes none."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jobspec.errors import JobspecError
from worker.launch import Devices

SOCKET_PATH_MAX = 107  # sun_path holds 108 bytes with its final NUL: unix(7)
_ENGINE_SOCKET = 64  # the longest name seen below TMPDIR: an evaluation engine's IPC socket


@dataclass(frozen=True)
class Finding:
    """One check that failed, in words, with what to do."""

    check: str
    message: str
    hint: str


def devices(wanted: int | None = None) -> Devices:
    """The GPUs this process may use, else processes on the CPU.

    Args:
        wanted: take this many; default all GPUs, or two processes on the CPU (one on one core).

    Raises:
        JobspecError: fewer GPUs than wanted.
    """
    names, memory_gib = _visible_gpus()
    if names:
        if wanted is not None and wanted > len(names):
            raise JobspecError(f"{wanted} GPUs asked for, {len(names)} are visible")
        return Devices(wanted or len(names), "cuda", names[0], memory_gib)
    cores = len(os.sched_getaffinity(0))
    return Devices(wanted or min(2, cores))


def check(root: Path, tmp: Path, *, min_free_gib: float = 1.0) -> list[Finding]:
    """What makes this node unfit now; an empty list if nothing."""
    found: list[Finding] = []
    if len(str(tmp)) + _ENGINE_SOCKET > SOCKET_PATH_MAX:
        found.append(
            Finding(
                "tmpdir",
                f"TMPDIR `{tmp}` is too long for a socket",
                "set a short one, as /tmp/$USER",
            )
        )
    for name, place in (("root", root), ("tmpdir", tmp)):
        free_gib = shutil.disk_usage(place).free / 2**30
        if free_gib < min_free_gib:
            found.append(
                Finding(name, f"{free_gib:.1f} GiB are free on `{place}`", "make room there")
            )
    try:
        with tempfile.TemporaryFile(dir=tmp) as probe:
            probe.write(b"0" * 4096)
    except OSError as error:
        found.append(Finding("tmpdir", f"`{tmp}` can't be written: {error.strerror}", "mend it"))
    return found


def short_tmp() -> Path:
    """A new node-local directory for this worker, short enough for sockets."""
    base = Path(os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    if len(str(base)) + 12 + _ENGINE_SOCKET > SOCKET_PATH_MAX:
        base = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="jsw-", dir=base))


def _visible_gpus() -> tuple[list[str], float | None]:
    """Names of the GPUs this process may use and the first one's memory, through NVML."""
    masked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if masked == "":
        return [], None
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver library, no driver, no device: all of them mean no GPU
        return [], None
    try:
        count = pynvml.nvmlDeviceGetCount()
        chosen = range(count) if masked is None else _chosen(masked, count)
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in chosen]
        names = [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
        total = float(pynvml.nvmlDeviceGetMemoryInfo(handles[0]).total) if handles else None
        return names, total and total / 2**30
    finally:
        pynvml.nvmlShutdown()


def _chosen(masked: str, count: int) -> list[int]:
    entries = [entry.strip() for entry in masked.split(",") if entry.strip()]
    if all(entry.isdigit() for entry in entries):
        return [int(entry) for entry in entries if int(entry) < count]
    return list(range(min(len(entries), count)))  # UUIDs: as many as are named
