"""Joins the ranks of a phase, with the variables that the rank launcher set."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

# DeepSpeed's default. Saving a large model on rank 0 may exceed NCCL's ten minutes.
_TIMEOUT = timedelta(minutes=30)


def join(backend: str) -> bool:
    """Join the other ranks. False if another process has bound the port in the meantime."""
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error) and "address already in use" not in str(error):
            raise
        return False
    return True
