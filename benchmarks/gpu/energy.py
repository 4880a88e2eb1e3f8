"""How much energy the GPU used between two moments, from the driver's own counter (NVML)."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

_EVERY_S = 0.1


class EnergyMeter:
    """Samples the energy counter of GPU 0 in a thread. `missing` says why there is none."""

    def __init__(self) -> None:
        self.missing: str | None = None
        self._samples: list[tuple[float, float]] = []  # Unix time, joules
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> EnergyMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def joules(self, began: float, ended: float) -> float | None:
        """Joules used between two Unix times; None where the counter can't be read."""
        if len(self._samples) < 2 or ended <= began:
            return None
        return self._at(ended) - self._at(began)

    def _at(self, moment: float) -> float:
        """The counter's value at a time, read off between the two nearest samples."""
        samples = list(self._samples)
        before = [sample for sample in samples if sample[0] <= moment] or samples[:1]
        after = [sample for sample in samples if sample[0] > moment] or samples[-1:]
        (t0, e0), (t1, e1) = before[-1], after[0]
        return e0 if t1 == t0 else e0 + (e1 - e0) * (moment - t0) / (t1 - t0)

    def _sample(self) -> None:
        try:
            nvml: Any = __import__("pynvml")
            nvml.nvmlInit()
            handle = nvml.nvmlDeviceGetHandleByIndex(0)
            while not self._stop.wait(_EVERY_S):
                joules = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
                self._samples.append((time.time(), joules))
        except Exception as error:  # no driver, no such counter on this card or in this container
            self.missing = f"{type(error).__name__}: {error}"
            return
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()
