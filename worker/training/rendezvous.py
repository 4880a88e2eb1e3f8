"""Where a phase's ranks meet: torch's rendezvous, by the variables their rank launcher set."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

# As DeepSpeed's own: NCCL's ten minutes are less than a large model's save may take on rank 0.
_TIMEOUT = timedelta(minutes=30)


def join(backend: str) -> bool:
    """Meet the other ranks. False where another process has taken the port since it was chosen."""
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error) and "address already in use" not in str(error):
            raise
        return False
    return True
