"""The command lines that start a phase's ranks, on one node or on several."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from worker.launch.launcher import SRUN


def phase_command(
    module: str, attempt_dir: Path, *, ranks: int = 1, port: int = 0, isolation: str = "auto"
) -> list[str]:
    """The command that runs a phase's ranks under a rank launcher.

    Args:
        module: the phase's module in `worker.phases`.
    """
    launcher = [sys.executable, "-m", "worker.process.rank_launcher", "--ranks", str(ranks)]
    launcher += ["--port", str(port), "--parent", str(os.getpid()), "--isolation", isolation]
    return [*launcher, "--", *_rank_command(module, attempt_dir)]


@dataclass(frozen=True)
class NodeLayout:
    """Several nodes with `ranks` ranks each. Each node creates its own local directory `tmp`."""

    nodes: int
    ranks: int
    tmp: Path
    launcher: str = SRUN
    isolation: str = "auto"


def multi_node_command(module: str, attempt_dir: Path, log: Path, layout: NodeLayout) -> list[str]:
    """The command that runs a phase's ranks under a rank launcher on each of several nodes."""
    head = [sys.executable, "-m", "worker.process.coordinator", "--nodes", str(layout.nodes)]
    head += ["--launcher", layout.launcher, "--parent", str(os.getpid())]
    node = [sys.executable, "-m", "worker.process.node_agent", "--ranks", str(layout.ranks)]
    node += ["--isolation", layout.isolation, "--tmp", str(layout.tmp), "--log", str(log)]
    return [*head, "--", *node, "--", *_rank_command(module, attempt_dir)]


def _rank_command(module: str, attempt_dir: Path) -> list[str]:
    return [sys.executable, "-m", module, str(attempt_dir)]
