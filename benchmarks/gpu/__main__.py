"""Measure this project on one GPU and write `docs/gpu/<card>.md`: `make gpu`.

    python -m benchmarks.gpu                            every route, at most 8 minutes
    python -m benchmarks.gpu --only demo,full-defaults  some of them
    python -m benchmarks.gpu --profile                  also time by kind of work, which slows down
    python -m benchmarks.gpu --toy                      tiny sizes on a CPU, as CI runs them

Needs a checkout and the packages of `jobspec[worker]`, installed or on PYTHONPATH; no network, git
or Slurm. Each route is a process with a time limit of its own. One that fails or finds no time left
is reported on the page and does not stop the others. The page is written again after each route, so
that an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu import page
from benchmarks.gpu.bench import Bench, RouteError
from benchmarks.gpu.routes import ROUTES

REPO = Path(__file__).resolve().parents[2]
LEAST_S = 15.0  # a route with less time than this is not started


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", help=f"routes, separated by commas: {','.join(ROUTES)}")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all routes together")
    parser.add_argument("--toy", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--profile", action="store_true", help="print time by kind of work")
    parser.add_argument("--output", type=Path, help="directory of the page [default: docs/gpu]")
    parser.add_argument("--logs", type=Path, help="where to put the output of routes that failed")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else list(ROUTES)
    if unknown := set(only) - ROUTES.keys():
        parser.error(f"no such route: {', '.join(sorted(unknown))}")
    output = args.output or REPO / ("build/gpu" if args.toy else "docs/gpu")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-bench-", dir=_memory_disk()) as directory:
        bench = Bench(Path(directory), toy=args.toy, profile=args.profile)
        results = run_routes(bench, only, args.seconds, output)
        if args.logs:
            args.logs.write_text(_failed_logs(bench, results))
    sys.exit(any("failed" in result for result in results.values()))


def run_routes(
    bench: Bench, only: list[str], seconds: float, output: Path
) -> dict[str, dict[str, object]]:
    """Run the routes in order of importance, and write page and `results.json` after each."""
    deadline = time.monotonic() + seconds
    results: dict[str, dict[str, object]] = {}
    written = output
    with bench.energy:
        for name in [name for name in ROUTES if name in only]:
            results[name] = run_route(bench, name, deadline)
            print(f"{name}: {json.dumps(results[name])}", flush=True)
            if "profile" in results[name]:
                print("\n".join(page.profile_lines(results[name]["profile"])), flush=True)
            written = page.write(output, bench, results)
    print(f"written: {written}", flush=True)
    return results


def run_route(bench: Bench, name: str, deadline: float) -> dict[str, object]:
    """Run one route. Its figures, or why it failed or was skipped."""
    route = ROUTES[name]
    began = time.monotonic()
    bench.limit_s = min(route.limit_s, deadline - began)
    if bench.limit_s < LEAST_S:
        return {"skipped": "no time was left (--seconds)"}
    try:
        result = route.run(bench)
    except RouteError as error:
        result = {"failed": str(error)}
    except Exception as error:  # whatever a route's files lack must not stop the others
        result = {"failed": f"{type(error).__name__}: {error}"}
    return result | {"wall_s": round(time.monotonic() - began, 1)}


def _failed_logs(bench: Bench, results: dict[str, dict[str, object]]) -> str:
    """The output of what failed, the inputs' included, which the first training route makes."""
    failed = [name for name, result in results.items() if "failed" in result]
    shown = ["inputs-part", "inputs-whole", *failed] if failed else []
    logs = [(name, bench.dir / f"{name}.log") for name in shown]
    return "".join(
        f"==== {name}\n{log.read_text(errors='replace')}\n" for name, log in logs if log.exists()
    )


def _memory_disk() -> str | None:
    """`/dev/shm` where it holds the weights of every route, so that no disk is measured."""
    shm = Path("/dev/shm")
    return str(shm) if shm.is_dir() and shutil.disk_usage(shm).free > 40 * 2**30 else None


if __name__ == "__main__":
    main()
