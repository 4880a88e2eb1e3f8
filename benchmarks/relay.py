"""What `jobspec relay --watch` costs while 200 jobs write a row every ten seconds.

    python -m benchmarks.relay --jobs 200 --every-s 10 --seconds 300

The server is the tests' one on loopback, in a process of its own that is not counted; the client
has its own settings, as with the real service. Counted is the processor time of the relay, of its
client processes and of their cores, from when every run was open until the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.support.queues import queue_at  # noqa: E402 - the path comes first
from tests.support.relays import Writing, start  # noqa: E402
from tests.support.wandb_server import KEY  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--every-s", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, server() as url:
        print(json.dumps(measure(Path(scratch), url, options), indent=2))


def measure(scratch: Path, url: str, options: argparse.Namespace) -> dict[str, Any]:
    queue = queue_at(scratch, lease_s=4.0)
    (queue.paths.format).write_text('{"layout": 1, "heartbeat_s": 15, "lease_s": 150}')
    jobs = [start(queue, (number + 1) * 1e-6) for number in range(options.jobs)]
    for job in jobs:
        job.steps(0, 1)
    over = threading.Event()
    writer = threading.Thread(target=write, args=(jobs, options.every_s, over))
    writer.start()
    command = [sys.executable, "-m", "jobspec.cli", "relay", "--watch", "--root"]
    relay = subprocess.Popen(
        [*command, str(queue.paths.root)],
        env={**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY},
        cwd=REPOSITORY,
    )
    try:
        began = time.monotonic()
        while len(counts(url)) < len(jobs):
            assert relay.poll() is None, "the relay ended"
            time.sleep(1)
        opened_s = time.monotonic() - began
        before, load = cpu_s(relay.pid), os.getloadavg()[0]
        time.sleep(options.seconds)
        after = cpu_s(relay.pid)
        memory = sum(rss(process) for process in tree(relay.pid))
        processes = len(tree(relay.pid))
        written, arrived = sum(job.seq for job in jobs), sum(counts(url).values())
    finally:
        over.set()
        writer.join()
        relay.send_signal(signal.SIGTERM)
        relay.wait()
    return {
        "jobs": len(jobs),
        "row_every_s": options.every_s,
        "seconds": options.seconds,
        "all_open_after_s": round(opened_s, 1),
        "core_share": {
            name: round(after[name] / options.seconds - before.get(name, 0) / options.seconds, 4)
            for name in after
        },
        "core_share_sum": round((sum(after.values()) - sum(before.values())) / options.seconds, 4),
        "memory_mib": round(memory / 2**20),
        "processes": processes,
        "rows_written": written,
        "rows_arrived": arrived,
        "behind_s": round((written - arrived) / len(jobs) * options.every_s, 1),
        "load_of_others": load,
        "cpus": os.cpu_count(),
    }


def write(jobs: list[Writing], every_s: float, over: threading.Event) -> None:
    """A row a job every `every_s` seconds, spread evenly."""
    due = time.monotonic()
    while True:
        for job in jobs:
            due += every_s / len(jobs)
            if over.wait(max(0.0, due - time.monotonic())):
                return
            job.steps(job.seq, job.seq + 1)


def tree(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def cpu_s(pid: int) -> dict[str, float]:
    """Processor seconds so far: of the relay, of its clients in Python, of their cores."""
    spent = {"relay": 0.0, "clients": 0.0, "cores": 0.0}
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            core = "python" not in process.name()
            kind = "relay" if process.pid == pid else "cores" if core else "clients"
            spent[kind] += times.user + times.system
    return spent


def rss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.memory_info().rss
    return 0


def counts(url: str) -> dict[str, int]:
    """Lines by run, as the server has them."""
    import urllib.request

    with urllib.request.urlopen(f"{url}/counts") as answer:
        return json.load(answer)


@contextlib.contextmanager
def server() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.wandb_server"],
        cwd=REPOSITORY / "tests",
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    main()
