"""What a job's start costs, by part: `python -m benchmarks.start [--runs 3] [--ranks 1]`.

From the claim to the end of the first training step, and from the end of the last to the first
generated token, of real jobs of a tiny model (worker.demo.tiny_model) whose rows are prepared:
marks in the phases' own processes (benchmarks/start_probe.py), whose medians are printed in wall
seconds and in processor seconds of the process that the part is in. On a busy machine trust the
latter. The last line is a bare TRL script (benchmarks/trl_script.py) on the same model and rows,
from its start to the end of its first step; its tokenized rows lie in its cache.

    --modules    also which packages a rank and the evaluation had loaded at their end
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks import start_probe
from benchmarks.train import run_trl
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import ClaimRecord
from jobspec.records.base import State
from jobspec.spec.schema import DataSpec, EvalSpec, JobSpec, ModelSpec, TrainSpec

REPO = Path(__file__).resolve().parents[1]
TRAIN = ("interpreter", "imports", "process group", "rows", "model", "kernels", "trainer",
         "engine", "held-out loss", "first step")  # fmt: skip
EVAL = ("interpreter", "imports", "transformers", "lm-eval", "model", "first token")


class Part(NamedTuple):
    """What one part took, in seconds; `cpu_s` is None where several processes share in it."""

    name: str
    wall_s: float
    cpu_s: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--modules", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="start-bench-") as name:
        place = Path(name)
        _make_model(place)
        _job(place, "warm", args.ranks)  # prepares the rows, and fills the caches of files
        jobs = [_job(place, f"run-{number}", args.ranks) for number in range(args.runs)]
        _print([parts_of(*job) for job in jobs])
        if args.ranks == 1:
            _print_bare(_bare_starts(place, args.runs))
        if args.modules:
            _print_modules(jobs[-1][1])


def _bare_starts(place: Path, runs: int) -> list[float]:
    """Seconds from the start of a TRL script to the end of its first step; one run warms up."""
    rows = [json.loads(line)["messages"] for line in (place / "train.jsonl").open()]
    (place / "rows").mkdir()
    lines = [json.dumps({"prompt": row[:-1], "completion": row[-1:]}) for row in rows]
    (place / "rows" / "train.jsonl").write_text("\n".join(lines) + "\n")
    arguments = {
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
        "max_length": 512,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
    }
    found = []
    for number in range(runs + 1):
        name = f"bare-{number}"
        run = run_trl(place, name, arguments | {"output_dir": str(place / name)})
        found.append(run.first_step_s)
    return found[1:]


def _print_bare(seconds: Sequence[float]) -> None:
    print(f"{'A BARE SCRIPT TO FIRST STEP':28} {statistics.median(seconds):7.2f}")


def _make_model(place: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from worker.demo import tiny_model\n"
        "tiny_model.make(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(place)], cwd=REPO, check=True)


def _job(place: Path, name: str, ranks: int) -> tuple[Any, list[dict[str, Any]]]:
    """Run one job to its end with a worker of its own. Returns its attempt and the marks."""
    queue = Queue.create(place / "root")
    job = queue.enqueue(_spec(place, name))
    marks = place / f"marks-{name}"
    marks.mkdir()
    command = [_interpreter(place), "-m", "worker", "--root", str(place / "root"), "--drain"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [*command, "--devices", str(ranks)],
        env=environment | {start_probe.DIRECTORY: str(marks)},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    if queue.job(job.id).state is not State.SUCCEEDED:
        raise SystemExit(f"the job did not succeed:\n{done.stderr[-3000:]}")
    rows = [json.loads(line) for path in marks.iterdir() for line in path.read_text().splitlines()]
    return job.paths.attempt(1), rows


def _interpreter(place: Path) -> str:
    """A Python that installs the probe as it starts, with the packages of this one.

    A virtual environment of its own, because a worker hides other directories from its phases.
    """
    directory = place / "python"
    if not directory.exists():
        venv.create(directory, symlinks=True)
        (site,) = directory.glob("lib/python*/site-packages")
        paths = [str(REPO), *(path for path in sys.path if path.endswith("-packages"))]
        (site / "packages.pth").write_text("\n".join(paths) + "\n")
        (site / "sitecustomize.py").write_text(
            "from benchmarks import start_probe\nstart_probe.install()\n"
        )
    return str(directory / "bin" / "python")


def _spec(place: Path, name: str) -> JobSpec:
    data = place / "train.jsonl"
    return JobSpec(
        name=name,
        model=ModelSpec(name=str(place / "model"), dtype="float32"),
        data=DataSpec(
            path=str(data),
            sha256=hashlib.sha256(data.read_bytes()).hexdigest(),
            allow_contaminated=True,
        ),
        train=TrainSpec(
            num_train_epochs=1.0,
            max_length=512,
            per_device_train_batch_size=4,
            gradient_checkpointing=False,
        ),
        eval=EvalSpec(
            benchmarks=("aime_demo",),
            benchmark_dir=str(place / "benchmarks"),
            avg_k=2,
            max_gen_toks=48,
            limit=4,
        ),
    )


def parts_of(attempt: Any, marks: Sequence[dict[str, Any]]) -> list[Part]:
    """One job's start in parts, in order, with their sums."""
    events = {(row["event"], row.get("phase")): _unix(row["time"]) for row in _lines(attempt)}
    claim = records.read(attempt.claim, ClaimRecord)
    assert claim is not None
    claimed, told = _unix(claim.claimed_at), events["start", "train"]
    ranks = [row for row in marks if row["module"] == "worker.training.train" and not row["rank"]]
    scored = [row for row in marks if row["module"] == "worker.evaluation.evaluate"]
    before = [
        Part("claim to prepare", events["start", "prepare"] - claimed),
        Part("prepare (cached)", events["end", "prepare"] - events["start", "prepare"]),
        Part("manifest", told - events["end", "prepare"]),
    ]
    train = [Part(f"train: {part.name}", *part[1:]) for part in _chain(told, ranks, TRAIN)]
    steps = next(row["time"] for row in ranks if row["mark"] == "steps")
    between = [Part("save, train ends", events["start", "eval"] - steps)]
    score = [
        Part(f"eval: {part.name}", *part[1:])
        for part in _chain(events["start", "eval"], scored, EVAL)
    ]
    return [
        *before,
        *train,
        _sum("CLAIM TO FIRST STEP", [*before, *train]),
        *between,
        *score,
        _sum("LAST STEP TO FIRST TOKEN", [*between, *score]),
    ]


def _chain(start: float, marks: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Part]:
    """From one mark of a process to the next; the rank launcher starts before the first."""
    found = {row["mark"]: row for row in marks}
    forked = found["interpreter"]["started"]
    parts, time, cpu = [Part("rank launcher", forked - start)], forked, 0.0
    for name in names:
        if name in found:
            row = found[name]
            parts.append(Part(name, row["time"] - time, row["cpu_s"] - cpu))
            time, cpu = row["time"], row["cpu_s"]
    return parts


def _sum(name: str, parts: Sequence[Part]) -> Part:
    return Part(name, sum(p.wall_s for p in parts), sum(p.cpu_s or 0.0 for p in parts))


def _lines(attempt: Any) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in attempt.events.read_bytes().splitlines()]


def _unix(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def _print(runs: Sequence[Sequence[Part]]) -> None:
    print(f"{'part':28} {'wall s':>7} {'CPU s':>7}")
    for same in zip(*runs, strict=True):
        wall_s = statistics.median(part.wall_s for part in same)
        used = [part.cpu_s for part in same if part.cpu_s is not None]
        cpu = f"{statistics.median(used):7.2f}" if used else f"{'':7}"
        print(f"{same[0].name:28} {wall_s:7.2f} {cpu}")


def _print_modules(marks: Sequence[dict[str, Any]]) -> None:
    for module in ("worker.data.prepare", "worker.training.train", "worker.evaluation.evaluate"):
        loaded = next((row["modules"] for row in marks
                       if row["module"] == module and "modules" in row), [])  # fmt: skip
        packages = Counter(name.partition(".")[0] for name in loaded)
        most = ", ".join(f"{name} {count}" for name, count in packages.most_common(40))
        print(f"\n{module}: {len(loaded)} modules: {most}")


if __name__ == "__main__":
    main()
