"""Measures the energy of a phase on this node: its GPUs by NVML, all of the node's CPUs by RAPL.

Source: NVML API, nvmlDeviceGetTotalEnergyConsumption (mJ since the driver was loaded, Volta and
newer); Linux power capping framework, intel-rapl (uJ, wraps at max_energy_range_uj).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from jobspec.records.attempt import Energy
from worker.host import gpu_selection
from worker.host.gpus import GpuError, nvml_library

# A counter of 262 kJ wraps after eleven minutes at 400 W; more than one wrap would go unseen.
_READ_EVERY_S = 60.0
_PACKAGES = "intel-rapl:*"  # the name on AMD's processors too
_POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts from its creation on. A counter that can't be read counts nothing.

    Args:
        powercap: the directory of the kernel's counters.
    """

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._powercap = powercap
        self._gpus = _gpu_mj()
        self._cpus = self._cpu_counters()
        self._cpu_uj = 0
        self._next_read = time.monotonic() + _READ_EVERY_S

    def keep_up(self) -> None:
        """Read the counters of the CPUs if it is time, so that no wrap of theirs is missed."""
        if self._cpus and time.monotonic() >= self._next_read:
            self._next_read = time.monotonic() + _READ_EVERY_S
            self._count_cpus()

    def read(self) -> Energy | None:
        """The energy since the beginning; None if nothing can be measured here."""
        self._count_cpus()
        gpus = _gpu_mj() if self._gpus is not None else None
        gpu_j = None
        if self._gpus is not None and gpus is not None and gpus.keys() == self._gpus.keys():
            gpu_j = sum(gpus[name] - began for name, began in self._gpus.items()) / 1e3
        cpu_j = self._cpu_uj / 1e6 if self._cpus else None
        if gpu_j is None and cpu_j is None:
            return None
        return Energy(gpu_j=gpu_j, cpu_j=cpu_j)

    def _count_cpus(self) -> None:
        if not self._cpus:
            return
        now = self._cpu_counters()
        for path, began in self._cpus.items():
            if path not in now:
                self._cpus = {}  # a sum without one processor would be wrong
                return
            passed = now[path] - began
            self._cpu_uj += passed if passed >= 0 else passed + _integer(path / _RANGE)
        self._cpus = now

    def _cpu_counters(self) -> dict[Path, int]:
        """Each processor's counter in uJ; none if one of them may not be read."""
        packages = [
            path for path in self._powercap.glob(_PACKAGES)
            if path.name.count(":") == 1 and _text(path / "name").startswith("package")
        ]  # fmt: skip
        try:
            return {path: _integer(path / "energy_uj") for path in packages}
        except (OSError, ValueError):
            return {}  # Linux lets only root read them since CVE-2020-8694


_RANGE = "max_energy_range_uj"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _integer(path: Path) -> int:
    return int(path.read_text())


def _gpu_mj() -> dict[str, int] | None:
    """Each of this process's GPUs and its counter in mJ; None if one has none."""
    if gpu_selection.excludes_all():
        return None
    try:
        with nvml_library() as nvml:
            if nvml is None:
                return None
            chosen = gpu_selection.select_cuda(nvml, os.environ.get(gpu_selection.CUDA))
            try:
                found = {
                    str(nvml.nvmlDeviceGetUUID(handle)): int(
                        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
                    )
                    for _, handle in chosen
                }
            except nvml.NVMLError:
                return None  # older than Volta, or a part of a GPU (MIG)
            return found or None
    except GpuError:
        return None
