"""The command that starts a process once on each node of a job."""

from __future__ import annotations

# Every option is given, because variables of the batch script would set the others.
# `worker.process.coordinator` does the rest.
SRUN = (
    "srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --export=ALL --overlap "
    "--cpu-bind=none --kill-on-bad-exit=0 --wait=0 --unbuffered"
)
