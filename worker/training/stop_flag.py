"""How a signal to one rank stops all of them between two steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from worker.training.errors import StoppedError


class StopFlag:
    """A signal handler for SIGUSR2 and SIGTERM. After each step the ranks compare their flags."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, signum: int, frame: Any) -> None:
        self.requested = True

    def check(self, device: torch.device) -> None:
        """Raise StoppedError on all ranks if any was asked to stop. All ranks call it."""
        requested = torch.tensor([float(self.requested)], device=device)
        dist.all_reduce(requested)
        if requested.item() > 0:
            raise StoppedError
