"""The train phase. Every rank runs it, started by the rank launcher.

    python -m worker.training.train ATTEMPT_DIR

Reads the rows that the prepare phase made, trains with TRL's SFTTrainer on a DeepSpeed engine, and
writes `final_model/`, the weights after each epoch, and `train.json`. After a stop signal it writes
a checkpoint and exits with code 75.
"""

from __future__ import annotations

import os
import signal
import sys

from jobspec.records import exit_codes, phases
from worker.imports import lean
from worker.phase import Phase, run
from worker.program import run_program

os.environ.setdefault("ACCELERATE_USE_DEEPSPEED", "true")

with lean.lean(adapters=lean.wants_adapters(sys.argv)):
    import deepspeed
    import torch

    from worker.training import rendezvous
    from worker.training.stop_flag import StopFlag
    from worker.training.training_run import TrainingRun

    lean.spare_compiler()


def main() -> None:
    run(phases.TRAIN, body)


def body(phase: Phase) -> int:
    """Train one job's model; every rank runs this."""
    stop = StopFlag()
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # Otherwise, DeepSpeed compiles a shared-memory all-reduce at the first start on each host.
        # That takes half a minute and a compiler, and gloo does not need it. The table is replaced
        # as a whole because reading it makes DeepSpeed probe all of its operators.
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}  # type: ignore[attr-defined] - DeepSpeed creates it on first use
    backend = "nccl" if on_gpu else "gloo"
    if not rendezvous.join(backend):
        return exit_codes.PORT_IN_USE
    deepspeed.init_distributed(backend, verbose=False)
    job = TrainingRun(phase, stop)
    for sig in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(sig, stop)
    return job.run()


if __name__ == "__main__":
    run_program(main)
