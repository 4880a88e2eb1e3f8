"""The train phase with Liger's own patch: `python -m benchmarks.gpu.liger_alone ATTEMPT_DIR`.

No spec can ask for this; the route measures what the kernels bring for the norms that Liger leaves.
"""

from __future__ import annotations

from worker.training import train  # first: it keeps out of the imports what no phase uses

from worker.kernels import liger  # isort: skip
from worker.program import run_program  # isort: skip

if __name__ == "__main__":
    liger.patch_remaining_norms = lambda model, patches: None
    run_program(train.main)
