"""Energy from counters: of GPUs by a stand-in for NVML, of processors by files like Linux's."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from jobspec.records.attempt import Energy
from tests.support.nvml import pretend_gpus
from worker.host import energy
from worker.host.energy import EnergyMeter

RANGE = 262_143_328_850  # uJ; a server's


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two processors with a part each, and no GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, label in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:0:0", "dram"),
        ("intel-rapl:2", "psys"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(f"{label}\n")
        (tmp_path / name / "max_energy_range_uj").write_text(f"{RANGE}\n")
        count(tmp_path, name, 1_000_000)
    return tmp_path


def count(powercap: Path, name: str, microjoules: int) -> None:
    (powercap / name / "energy_uj").write_text(f"{microjoules}\n")


def gpu_counters(monkeypatch: pytest.MonkeyPatch, *millijoules: int) -> None:
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: millijoules[handle]
    )


def test_processors_are_added_up_without_their_parts(powercap: Path) -> None:
    meter = EnergyMeter(powercap)
    count(powercap, "intel-rapl:0", 3_500_000)
    count(powercap, "intel-rapl:1", 2_000_000)
    count(powercap, "intel-rapl:0:0", 900_000_000)
    assert meter.read() == Energy(cpu_j=3.5)


def test_a_counter_that_starts_again_is_followed(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "_READ_EVERY_S", 0.0)
    meter = EnergyMeter(powercap)
    for microjoules in (RANGE - 1_000_000, 4_000_000, RANGE - 1_000_000, 4_000_000):
        count(powercap, "intel-rapl:0", microjoules)
        meter.keep_up()
    found = meter.read()
    assert found is not None and found.cpu_j == pytest.approx((2 * RANGE + 3_000_000) / 1e6)


def test_counters_that_only_root_may_read_measure_nothing(powercap: Path) -> None:
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    (powercap / "intel-rapl:1" / "energy_uj").mkdir()  # fails to be read, also for root
    assert EnergyMeter(powercap).read() is None


def test_a_counter_that_goes_away_measures_nothing(powercap: Path) -> None:
    meter = EnergyMeter(powercap)
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.read() is None


def test_the_jobs_gpus_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    gpu_counters(monkeypatch, 0, 1_000, 5_000, 0)
    meter = EnergyMeter(tmp_path)
    gpu_counters(monkeypatch, 99_000, 3_000, 5_500, 99_000)
    assert meter.read() == Energy(gpu_j=2.5)


def test_a_gpu_without_a_counter_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(handle: int) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    pretend_gpus(monkeypatch, 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", unsupported)
    assert EnergyMeter(tmp_path).read() is None


def test_this_machine_is_read_or_not_measured() -> None:
    found = EnergyMeter().read()
    assert found is None or (found.gpu_j or 0) >= 0 <= (found.cpu_j or 0)
