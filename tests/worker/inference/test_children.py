"""Processes that an engine starts die with a parent that is killed, however they were started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.paths import REPOSITORY
from tests.support.vllm import living
from tests.support.waiting import until

# A process with a child and a grandchild, as vLLM's engine core and workers.
FAMILY = """\
import multiprocessing, os, sys, time
from pathlib import Path
from worker.inference import children

def live(method, directory, generations):
    (directory / str(os.getpid())).touch()
    if generations:
        context = multiprocessing.get_context(method)
        context.Process(target=live, args=(method, directory, generations - 1)).start()
    time.sleep(600)

if __name__ == "__mp_main__":
    children.die_with_spawner()
if __name__ == "__main__":
    children.die_with_this_process()
    live(sys.argv[1], Path(sys.argv[2]), 2)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_and_grandchildren_die_with_a_killed_process(tmp_path: Path, method: str) -> None:
    script, pids = tmp_path / "family.py", tmp_path / "pids"
    script.write_text(FAMILY)
    pids.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), method, str(pids)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
    )
    family: list[psutil.Process] = []
    try:
        until(lambda: len(list(pids.iterdir())) == 3, "the grandchild")
        family = [psutil.Process(int(path.name)) for path in pids.iterdir()]
        process.kill()
        until(lambda: not living(family), "the end of the children", timeout_s=5.0)
    finally:
        process.kill()
        process.wait()
        for each in living(family):
            each.kill()
