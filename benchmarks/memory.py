"""Predicted and measured memory of training on this machine's CPU: `python -m benchmarks.memory`.

A model of Olmo-3's layers with 88 million random weights is trained for two steps by a job for
each setting, with the defaults of `jobspec new` otherwise. A line is printed for each: the peak of
the rank's memory, as predicted and as the kernel counted it (both in GiB), their ratio, the bytes
measured for each weight beyond those of a process without a model, and the parts of the prediction.
bfloat16 is slow on most CPUs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import train
from benchmarks.common import machine, table

LAYERS, HIDDEN = 10, 768
ROWS = 2 * train.ROWS_A_STEP
MAX_LENGTH = 512
HALF = "model.dtype=bfloat16"
ALL, NONE = "train.gradient_checkpointing=true", "train.gradient_checkpointing=false"
PARTS = ("base", "weights", "states", "backward", "step")
ROUTES: dict[str, tuple[str, ...]] = {
    "float32": (),
    "float32, all layers recomputed": (ALL,),
    "float32, no layer recomputed": (NONE,),
    "bfloat16": (HALF,),
    "bfloat16, all layers recomputed": (HALF, ALL),
    "bfloat16, adamw_8bit": (HALF, "train.optim=adamw_8bit", ALL),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", default=list(ROUTES), help="[default: all]")
    args = parser.parse_args()
    print(machine("torch", "transformers", "deepspeed", "torchao"))
    with tempfile.TemporaryDirectory(prefix="memory-bench-") as name:
        place = Path(name)
        shape = [str(number) for number in (ROWS, MAX_LENGTH, LAYERS, HIDDEN)]
        make = [sys.executable, "-m", "benchmarks.small", name, *shape]
        subprocess.run(make, cwd=train.REPO, env=train.environment(place), check=True)
        lines = [measure(place, route) for route in args.settings]
    print(table(["setting", "predicted", "measured", "ratio", "bytes/weight", *PARTS], lines))


def measure(place: Path, route: str) -> list[str]:
    """Train with a route's settings; return its line."""
    name = f"memory-{list(ROUTES).index(route)}"
    spec = train.make_spec(place, name, 1, ROUTES[route], MAX_LENGTH)
    attempt, _ = train.run_job(place, spec)
    summary: dict[str, Any] = json.loads(attempt.done("train").read_text())
    memory = summary["memory"]
    parts = memory["parts"]
    own = (memory["measured_gib"] - parts["base"]) * 2**30 / summary["engine"]["trained_weights"]
    figures = (memory["predicted_gib"], memory["measured_gib"], memory["ratio"], own)
    line = [route, *(f"{figure:.2f}" for figure in (*figures, *parts.values()))]
    print(*line, flush=True)
    return line


if __name__ == "__main__":
    main()
