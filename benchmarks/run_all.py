"""All benchmarks that need no GPU in turn: `make bench`, `make bench WHAT="fleet start"`.

    python -m benchmarks.run_all --output build/bench.md [--quick] [NAME ...]

As they are recorded in docs/benchmarks.md, or with `--quick` with fewer jobs, workers and runs.
What they print goes to the screen and, under a head with date, machine and versions, to the output.
One that fails, or takes longer than its limit, doesn't keep the others from running; then the exit
code is 1 and the last lines say which.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import machine

REPO = Path(__file__).resolve().parents[1]
ALL = {
    "queue": "queues --jobs 5000",
    "depth": "queues --depth",
    "kill": "queues --kill",
    "overhead": "overhead --many 1000",
    "fleet": "fleet --workers 1,10,100,300,1000",
    "start": "start --runs 5",
    "idle": "idle --seconds 5",
    "status": "status",
    "resume": "resume",
    "preview": "preview",
    "relay": "relay --seconds 60",
    "train": "train --runs 5",
    "evaluate": "evaluate --runs 5",
}
QUICK = {
    "queue": "queues",
    "overhead": "overhead",
    "fleet": "fleet --workers 1,10,100,300",
    "start": "start --runs 3",
    "preview": "preview --rows 10000",
    "train": "train --runs 3",
    "evaluate": "evaluate --runs 3",
}
LIMIT_S = 3600.0
VERSIONS = ("torch", "transformers", "trl", "deepspeed", "lm_eval", "wandb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"which [default: all]: {' '.join(ALL)}")
    parser.add_argument("--quick", action="store_true", help="fewer jobs, workers and runs")
    parser.add_argument("--output", type=Path, default=REPO / "build" / "bench.md")
    args = parser.parse_args()
    unknown = set(args.names) - ALL.keys()
    if unknown:
        parser.error(f"no such benchmark: {' '.join(sorted(unknown))}; there are {' '.join(ALL)}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Benchmarks\n\n{machine(*VERSIONS)}\n"
    args.output.write_text(head)
    print(head, flush=True)
    chosen = ALL | QUICK if args.quick else ALL
    said = {name: _run(name, chosen[name], args.output) for name in args.names or ALL}
    summary = "".join(f"{name}: {how}\n" for name, how in said.items())
    with args.output.open("a") as stream:
        stream.write(f"\n## Summary\n\n```\n{summary}```\n")
    print(f"\n{summary}written to {args.output}")
    sys.exit(any(not how.startswith("took") for how in said.values()))


def _run(name: str, line: str, output: Path) -> str:
    """Run one; its words go to the screen and the output. Returns how it went."""
    command = [sys.executable, "-u", "-m", *f"benchmarks.{line}".split()]
    print(f"== {name}", flush=True)
    began, lines = time.monotonic(), list[str]()
    process = subprocess.Popen(
        command,
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    signal.signal(signal.SIGALRM, lambda signum, frame: os.killpg(process.pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    for line in process.stdout:
        lines.append(line)
        print(line, end="", flush=True)
    code = process.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.monotonic() - began
    how = f"took {seconds:.0f} s" if code == 0 else f"FAILED ({code}) after {seconds:.0f} s"
    shown = " ".join(["python", *command[2:]])
    with output.open("a") as stream:
        stream.write(f"\n## {name}\n\n```\n$ {shown}\n{''.join(lines)}```\n\n{how}\n")
    return how


if __name__ == "__main__":
    main()
