"""Training speed on this machine's CPU against TRL: `python -m benchmarks.train [--runs 5]`.

One model (Olmo-3's layers, small, random weights, float32), the same rows as long as reasoning
traces are (benchmarks/small.py), the same hyperparameters and threads, one process each, through:

    trl            a TRL script as a user writes it (benchmarks/trl_script.py), padded batches
    trl-tuned      the same with fused AdamW and length grouping
    trl-sft        the `trl sft` command
    ours           a job as `jobspec new` writes it: `enqueue`, then `jobspec-worker --drain`
    ours-unpacked  the same without `train.packing`
    trl-zero2      (asked for with --routes) trl under DeepSpeed, ZeRO-2, one rank

Routes take turns, A B A B …, and medians are printed: real tokens a second from the end of the
second step to the end of the last (padding not counted), the peak memory of the largest process,
and the seconds from the start to the end of the first step. For ours that start is the claim, on
rows that `enqueue` has prepared; TRL's tokenized rows lie in its cache from a run before the first.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

REPO = Path(__file__).resolve().parents[1]
# What each of our routes sets besides the hyperparameters that all routes share.
OURS: dict[str, tuple[str, ...]] = {"ours": (), "ours-unpacked": ("train.packing=false",)}
ROUTES = ("trl", "trl-tuned", "trl-sft", *OURS)
WARM_UP = 2
ROWS_A_STEP = 8
MAX_LENGTH = 2048


class Run(NamedTuple):
    """One run of one route. `loss` is the mean over the epoch's steps."""

    tokens_per_second: float
    peak_gib: float
    first_step_s: float
    loss: float
    tokens: float
    cpu_s: float
    wall_s: float


class Step(NamedTuple):
    """The end of an optimizer step: when (seconds, Unix time), tokens so far, its loss."""

    time: float
    tokens: float
    loss: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=48, help="[default: 48]")
    parser.add_argument("--micro", type=int, default=4, help="rows at once [default: 4]")
    parser.add_argument("--routes", default=",".join(ROUTES))
    parser.add_argument("--output", type=Path, help="also write every run's figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="train-bench-") as name:
        place = Path(name)
        make = [sys.executable, "-m", "benchmarks.small", name, str(args.rows), str(MAX_LENGTH)]
        subprocess.run(make, cwd=REPO, env=environment(place), check=True)
        _compare(place, args)


def _compare(place: Path, args: argparse.Namespace) -> None:
    routes = args.routes.split(",")
    print(json.dumps(_facts(place, args)), flush=True)
    if any(route not in OURS for route in routes):
        run_trl(place, "warm", _arguments(place, args, max_steps=1, save_strategy="no"))
    taken: dict[str, list[Run]] = {route: [] for route in routes}
    for number in range(args.runs):
        for route in routes:
            run = _run(place, route, f"{route}-{number}", args)
            taken[route].append(run)
            print(number, route, json.dumps(run._asdict()), flush=True)
    medians = {route: Run(*map(statistics.median, zip(*runs, strict=True)))
               for route, runs in taken.items()}  # fmt: skip
    _print(medians)
    if args.output:
        runs = {route: [run._asdict() for run in each] for route, each in taken.items()}
        figures = {"facts": _facts(place, args), "runs": runs}
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


def _facts(place: Path, args: argparse.Namespace) -> dict[str, Any]:
    names = ("torch", "transformers", "trl", "accelerate", "deepspeed")
    return {
        **json.loads((place / "facts.json").read_text()),
        "rows_at_once": args.micro,
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def _print(medians: dict[str, Run]) -> None:
    base = medians.get("trl") or next(iter(medians.values()))
    print(f"{'route':14} {'tok/s':>8} {'ratio':>6} {'peak GiB':>9} {'ratio':>6}"
          f" {'1st step s':>11} {'ratio':>6} {'loss':>7}")  # fmt: skip
    for route, run in medians.items():
        print(
            f"{route:14} {run.tokens_per_second:8.0f}"
            f" {run.tokens_per_second / (base.tokens_per_second or 1):6.2f}"
            f" {run.peak_gib:9.2f} {run.peak_gib / base.peak_gib:6.2f}"
            f" {run.first_step_s:11.1f} {run.first_step_s / base.first_step_s:6.2f} {run.loss:7.3f}"
        )


# --- the routes


def _run(place: Path, route: str, name: str, args: argparse.Namespace) -> Run:
    if route in OURS:
        return _ours(place, name, args, OURS[route])
    arguments = _arguments(place, args, output_dir=str(place / name))
    if route == "trl-tuned":
        arguments |= {"optim": "adamw_torch_fused", "train_sampling_strategy": "group_by_length"}
    if route == "trl-zero2":
        arguments |= {"deepspeed": _write_zero(place)}
    return run_trl(place, name, arguments, command=route == "trl-sft")


def _arguments(place: Path, args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """SFTConfig's, of the same training as `make_spec`'s."""
    return {
        "output_dir": str(place / "out"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": args.micro,
        "gradient_accumulation_steps": ROWS_A_STEP // args.micro,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": math.ceil(0.03 * math.ceil(args.rows / ROWS_A_STEP)),
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-6,
        "weight_decay": 0.1,
        "max_length": MAX_LENGTH,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "disable_tqdm": True,  # each step's line is then printed as it ends
        "report_to": "none",
        "save_strategy": "no",
        **more,
    }


def _write_zero(place: Path) -> str:
    path = place / "zero2.json"
    automatic = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    zero = dict.fromkeys((*automatic, "gradient_clipping"), "auto")
    options = {"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}
    path.write_text(json.dumps(zero | options))
    return str(path)


def run_trl(place: Path, name: str, arguments: dict[str, Any], *, command: bool = False) -> Run:
    """TRL's script, or its command, on the model and the rows, with arguments of SFTConfig."""
    model, rows = str(place / "model"), str(place / "rows")
    if command:
        line = [str(Path(sys.executable).with_name("trl")), "sft", "--model_name_or_path", model]
        line += ["--dataset_name", rows, "--dtype", "float32"]
        line += [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
    else:
        settings = place / f"{name}.json"
        arguments = arguments | {"model_init_kwargs": {"dtype": "float32"}}
        settings.write_text(json.dumps({"model": model, "rows": rows, "arguments": arguments}))
        line = [sys.executable, str(REPO / "benchmarks" / "trl_script.py"), str(settings)]
    variables = environment(place)
    if "deepspeed" in arguments:
        variables |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}
    started = time.time()
    steps, used = _watched(line, variables, place / f"{name}.log")
    return _figures(started, steps, used, time.time() - started)


def _ours(place: Path, name: str, args: argparse.Namespace, settings: tuple[str, ...]) -> Run:
    """From the enqueued job's claim on; what `enqueue` prepares is not counted."""
    from jobspec.records import base as records
    from jobspec.records.attempt import ClaimRecord

    attempt, used = run_job(place, make_spec(place, name, args.micro, settings))
    ended = time.time()
    if not json.loads(attempt.done("prepare").read_text())["cached"]:
        raise SystemExit("rows were tokenized although they were prepared")
    rows = [json.loads(line) for line in attempt.metrics.read_text().splitlines()]
    steps = [Step(_unix(r["time"]), r["num_tokens"], r["loss"]) for r in rows if "loss" in r]
    claim = records.read(attempt.claim, ClaimRecord)
    assert claim is not None
    claimed = _unix(claim.claimed_at)
    return _figures(claimed, steps, used, ended - claimed)


def run_job(place: Path, spec: Any) -> tuple[Any, resource.struct_rusage]:
    """Enqueue a job in a root below `place` and work on it.

    Returns:
        The paths of its attempt, and what the worker and its processes used.

    Raises:
        SystemExit: it did not succeed; with the end of the log.
    """
    from jobspec.queue.queue import Queue
    from jobspec.records import base as records
    from jobspec.spec import identity

    file, root, log = place / "spec.json", place / "root", place / f"{spec.name}.log"
    file.write_bytes(identity.canonical(spec))
    variables = environment(place)
    enqueue = [sys.executable, "-m", "jobspec.cli", "enqueue", str(file), "--root", str(root)]
    done = subprocess.run(
        enqueue, cwd=REPO, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    work = [sys.executable, "-m", "worker", "--root", str(root), "--drain", "--devices", "1"]
    _, used = _watched(work, variables, log)
    job = Queue(root).job(done.stdout.strip())
    if job.state != records.State.SUCCEEDED:
        raise SystemExit(log.read_text()[-3000:])
    return job.paths.attempt(1), used


def make_spec(
    place: Path, name: str, micro: int, settings: tuple[str, ...], max_length: int = MAX_LENGTH
) -> Any:
    """What `jobspec new` writes for the same training as `_arguments`'."""
    from jobspec.spec import builder

    shared = (
        "model.dtype=float32",
        "data.eval_split_ratio=0",
        f"train.per_device_train_batch_size={micro}",
        f"train.global_batch_size={ROWS_A_STEP}",
        f"train.max_length={max_length}",
        "eval=null",
    )
    request = builder.Request(
        models=[str(place / "model")],
        learning_rates=[1e-3],
        epochs=1.0,
        data=str(place / "ours.jsonl"),
        name=name,
        settings=[*shared, *settings],
    )
    (spec,) = builder.build(request)
    return spec


def _unix(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def environment(place: Path) -> dict[str, str]:
    """The same for all: threads, caches of its own, no network."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("JOBSPEC_")},
        "PYTHONPATH": str(REPO),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "HF_HOME": str(place / "hf"),
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "TOKENIZERS_PARALLELISM": "true",
    }


def _watched(
    line: list[str], variables: dict[str, str], log: Path
) -> tuple[list[Step], resource.struct_rusage]:
    """Run a command to its end: the steps that it prints, and what its processes used.

    Raises SystemExit with the end of its log if it fails.
    """
    steps: list[Step] = []
    with log.open("w") as stream:
        process = subprocess.Popen(
            line, cwd=REPO, env=variables, stdout=subprocess.PIPE, stderr=stream, text=True
        )
        assert process.stdout is not None
        for text in process.stdout:
            stream.write(text)
            if text.startswith("{'loss'"):
                said = ast.literal_eval(text)
                steps.append(Step(time.time(), float(said["num_tokens"]), float(said["loss"])))
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{line}\n{log.read_text()[-3000:]}")
    return steps, used


def _figures(started: float, steps: list[Step], used: resource.struct_rusage, wall_s: float) -> Run:
    first, last = steps[min(WARM_UP, len(steps)) - 1], steps[-1]
    seconds = last.time - first.time
    return Run(
        tokens_per_second=(last.tokens - first.tokens) / seconds if seconds else 0.0,
        peak_gib=used.ru_maxrss / 2**20,  # of the largest process among it and its children
        first_step_s=steps[0].time - started,
        loss=statistics.mean(step.loss for step in steps),
        tokens=last.tokens,
        cpu_s=used.ru_utime + used.ru_stime,
        wall_s=wall_s,
    )


if __name__ == "__main__":
    main()
