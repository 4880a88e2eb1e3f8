"""In place of `worker.kernels.node_rates`: a node that measures as `JOBSPEC_TEST_RATES` says.

Its rows are printed, those of `hang` before a sleep that does not end. When it began and ended is
appended to a file in the root.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def stand_in(monkeypatch: pytest.MonkeyPatch, *rows: Any) -> None:
    """Let nodes measure these rows, wherever the test runs."""
    from tests.support.paths import REPOSITORY
    from worker.host import node_probe

    monkeypatch.setattr(node_probe, "_MODULE", __name__)
    monkeypatch.setenv("JOBSPEC_TEST_RATES", json.dumps(rows))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def main() -> None:
    began = time.monotonic()
    for row in json.loads(os.environ["JOBSPEC_TEST_RATES"]):
        if not isinstance(row, dict):  # "hang"
            time.sleep(600)
            continue
        sys.stdout.write(json.dumps({"at": time.monotonic(), **row}) + "\n")
        sys.stdout.flush()
    time.sleep(0.1)
    with (Path(sys.argv[2]) / "measured.txt").open("a") as file:
        file.write(f"{began} {time.monotonic()}\n")


if __name__ == "__main__":
    main()
