"""The train phase under torch's profiler: `python -m benchmarks.gpu.profiled OUT ATTEMPT_DIR`.

The steps that count are profiled. `OUT` gets the seconds of a step by kind of work
(benchmarks/gpu/work_kinds.py) and the kernels that took most of them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.inputs import STEPS, WARM_UP
from benchmarks.gpu.work_kinds import Work, longest, seconds_by_kind
from worker.program import run_program
from worker.training import train  # first: it keeps out of the imports what no phase uses

from worker.training.callbacks import StepReporter  # isort: skip

_PROFILED = STEPS - WARM_UP


class Profiled:
    """Profiles from the end of the last step that does not count to the end of the last one."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.steps = 0
        self.began = 0.0
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self.profile = profile(activities=activities)

    def end_step(self) -> None:
        """Called after each step."""
        self.steps += 1
        if self.steps not in (WARM_UP, STEPS):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.steps == WARM_UP:
            self.profile.start()
            self.began = time.perf_counter()
            return
        wall_s = time.perf_counter() - self.began
        self.profile.stop()
        self._write(wall_s)

    def _write(self, wall_s: float) -> None:
        on_gpu = torch.cuda.is_available()
        work = list(_work(self.profile.events(), on_gpu=on_gpu))
        kinds = seconds_by_kind(work, wall_s, overlapping=on_gpu)
        found = {
            "step_s": wall_s / _PROFILED,
            "kinds": {kind: seconds / _PROFILED for kind, seconds in kinds.items()},
            "longest": [(*names, seconds / _PROFILED) for *names, seconds in longest(work)],
        }
        self.out.write_text(json.dumps(found))


def _work(events: Any, *, on_gpu: bool) -> Iterator[Work]:
    """The profiler's events, which count microseconds: kernels of a GPU, else operators."""
    for event in events:
        began = event.time_range.start / 1e6
        if on_gpu and event.device_type == DeviceType.CUDA:
            yield Work(event.name, began, event.time_range.elapsed_us() / 1e6)
        if not on_gpu and event.device_type == DeviceType.CPU:
            yield Work(event.name, began, event.self_cpu_time_total / 1e6)


def main() -> None:
    profiled = Profiled(Path(sys.argv.pop(1)))
    report = StepReporter.on_step_end

    def on_step_end(self: StepReporter, *args: Any, **kwargs: Any) -> Any:
        control = report(self, *args, **kwargs)
        profiled.end_step()
        return control

    StepReporter.on_step_end = on_step_end
    train.main()


if __name__ == "__main__":
    run_program(main)
