"""The command that starts a process once on each node of a job."""

from __future__ import annotations

# `worker.process.coordinator` does everything else. Every option is spelled out, because variables
# of the batch script would set those that are not.
SRUN = (
    "srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --export=ALL --overlap "
    "--cpu-bind=none --kill-on-bad-exit=0 --wait=0 --unbuffered"
)
