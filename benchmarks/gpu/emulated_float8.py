"""The train phase as at toy size: `python -m benchmarks.gpu.emulated_float8 ATTEMPT_DIR`.

A job is refused float8 on a CPU; here its products are emulated, so that the route can be tried.
"""

from __future__ import annotations

from worker.training import train  # first: it keeps out of the imports what no phase uses

from worker.kernels import float8  # isort: skip
from worker.program import run_program  # isort: skip

if __name__ == "__main__":
    float8.EMULATED = True
    run_program(train.main)
