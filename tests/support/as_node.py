"""Runs a module as if on another node, which measures as `JOBSPEC_TEST_NODES` says.

    python -m tests.support.as_node NUMBER PYTHON -m MODULE ARGUMENT...

Node 0 is this machine; the others are called node1, node2 and so on.
"""

from __future__ import annotations

import json
import os
import platform
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import pytest

FAST: dict[str, Any] = {"rows": [{"figures": {"matmul_tflops": 650.0}}]}


def launcher_of_nodes(
    monkeypatch: pytest.MonkeyPatch, directory: Path, before: str = "", **nodes: dict[str, Any]
) -> str:
    """What to give as `--launcher` for nodes of this behaviour; by default they are `FAST`.

    Keys: `rows`, as those of `tests.support.node_rates`; `gpus`, arguments of `pretend_gpus`;
    `is`: `absent` for a node that does not start, `silent` for one whose driver hangs.
    """
    from tests.support.nodes import launcher
    from tests.support.paths import REPOSITORY

    monkeypatch.setenv("JOBSPEC_TEST_NODES", json.dumps(nodes))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    each = f"{sys.executable} -m tests.support.as_node $i"
    return launcher(directory, before=before, each=each)


def main() -> None:
    number, module = sys.argv[1], sys.argv[4]
    sys.argv = [module, *sys.argv[5:]]
    if number != "0":
        become(f"node{number}")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def become(name: str) -> None:
    """Take another node's name, GPUs and rates."""
    from tests.support import node_rates
    from tests.support.nvml import pretend_gpus
    from worker.host import gpus, node_probe

    behaviour = json.loads(os.environ["JOBSPEC_TEST_NODES"]).get(name, FAST)
    if behaviour.get("is") == "absent":
        sys.exit(1)
    patch = pytest.MonkeyPatch()
    patch.setattr(platform, "node", lambda: f"{name}.cluster")
    patch.setattr(node_probe, "_LOCK", f"\0jobspec-test-{os.getppid()}-{name}")
    patch.setattr(node_probe, "HUNG_S", 0.5)
    node_rates.stand_in(patch, *behaviour.get("rows", FAST["rows"]))
    if "gpus" in behaviour:
        pretend_gpus(patch, **behaviour["gpus"])
    if behaviour.get("is") == "silent":
        patch.setattr(gpus, "answering", lambda: time.sleep(600))


if __name__ == "__main__":
    main()
