"""A launcher like srun for "nodes" on one machine."""

from __future__ import annotations

from pathlib import Path

# Starts a command once a node, numbers it, and waits for all; what `before` says comes first.
_LAUNCHER = """#!/bin/sh
n=$1; shift
{before}
for i in $(seq 0 $((n - 1))); do SLURM_PROCID=$i {each} "$@" & done
wait
"""


def launcher(directory: Path, *, before: str = "", each: str = "") -> str:
    """What to give as `--launcher`: a script below `directory`."""
    script = directory / "launcher.sh"
    script.write_text(_LAUNCHER.format(before=before, each=each))
    script.chmod(0o755)
    return f"{script} {{nodes}}"
