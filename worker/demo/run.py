"""Runs the whole pipeline on this machine in minutes: `jobspec demo`.

It creates a tiny model, rows and a benchmark in a temporary root (worker.demo.tiny_model). With the
commands that a user would type it enqueues the untrained model and two learning rates. Then it runs
one worker until the queue is empty, and prints the scores. The model must learn: avg@k at most 0.05
before training and at least 0.8 after it, for the better rate. This tests masks, template,
training, saving, loading and scoring together. The benchmark asks questions from the training data,
so the score says nothing about generalization.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Progress, Result
from jobspec.records.base import State
from jobspec.storage.disk_errors import explain
from worker.demo import tiny_model
from worker.host.devices import visible_devices
from worker.inference.engine import ENGINES, resolve_backend
from worker.program import run_program

# Far apart, so that the first is better on every machine: 0.96 against 0.00.
RATES = ("2e-3", "5e-5")
UNTRAINED_AT_MOST = 0.05
TUNED_AT_LEAST = 0.8
METRIC = f"bench/{tiny_model.BENCHMARK}/avg_at_4"
_SETTINGS = {
    "model.dtype": "float32",
    "data.allow_contaminated": True,  # the benchmark asks what the rows teach
    "train.num_train_epochs": 10,
    "train.max_length": 512,
    "eval.avg_k": 4,
    "eval.max_gen_toks": 48,
}


def main() -> None:
    """Run the demo; exits with 1 if the model did not learn."""
    parser = argparse.ArgumentParser(prog="python -m worker.demo.run", description=__doc__)
    parser.add_argument(
        "--root", type=Path, help="directory to work in and keep (default: a temporary one)"
    )
    args = parser.parse_args()
    try:
        if args.root is not None:
            args.root.mkdir(parents=True, exist_ok=True)
            sys.exit(run(args.root.absolute()))
        with tempfile.TemporaryDirectory(prefix="jobspec-demo-") as directory:
            sys.exit(run(Path(directory)))
    except OSError as error:
        refused = explain(error)
        sys.exit(f"error: {refused}\nhint: {refused.hint}")
    except KeyboardInterrupt:
        _say("", over=True)
        _say("stopped by Ctrl-C")
        sys.exit(130)


def run(directory: Path) -> int:
    """Run the demo in `directory`. Returns the exit code."""
    started = time.monotonic()
    _say(_describe_machine())
    _say("creates a tiny Olmo-3 (byte-level tokens, random weights), training rows and a benchmark")
    tiny_model.make(directory)
    queue = Queue.create(directory / "root", heartbeat_s=2.0, lease_s=20.0)
    specs = _specs(directory)
    _jobspec("enqueue", *specs, "--root", str(queue.paths.root))
    _work(queue)
    _jobspec("status", "--root", str(queue.paths.root))
    _jobspec("results", "--root", str(queue.paths.root))
    code = _check_scores(queue)
    _say(f"took {time.monotonic() - started:.0f} s")
    return code


def _describe_machine() -> str:
    """Which devices train, which engine generates, and why."""
    devices = visible_devices()
    gpus = devices.count if devices.on_gpu else 0
    name, reason = resolve_backend("auto", gpus)
    hardware = f"{gpus} × {devices.name}" if gpus else f"{devices.count} processes on the CPU"
    return f"trains on {hardware}; {ENGINES[name].title} generates the answers, because {reason}"


def _specs(directory: Path) -> list[str]:
    """Write specs with `jobspec new`: two learning rates, and the untrained model."""
    model = str(directory / "model")
    common = [
        "--model",
        model,
        "--benchmarks",
        tiny_model.BENCHMARK,
        "-o",
        str(directory / "specs"),
    ]
    common += ["--set", f"eval.benchmark_dir={json.dumps(str(directory / 'benchmarks'))}"]
    settings = [part for key, value in _SETTINGS.items() for part in _set(key, value)]
    rates = [part for rate in RATES for part in ("--learning-rate", rate)]
    data = ["--data", str(directory / "train.jsonl"), "--name", "demo"]
    tuned = _jobspec("new", *common, *rates, *data, *settings)
    kept = [
        part
        for key, value in _SETTINGS.items()
        if not key.startswith(("train.", "data."))
        for part in _set(key, value)
    ]
    untrained = ["--set", "train=null", "--set", "data=null", "--name", "demo-untrained"]
    return _jobspec("new", *common, *untrained, *kept) + tuned


def _set(key: str, value: object) -> tuple[str, str]:
    return "--set", f"{key}={json.dumps(value)}"


def _work(queue: Queue) -> None:
    """Run one worker until the queue is empty, and show its progress."""
    command = [sys.executable, "-m", "worker", "--root", str(queue.paths.root), "--drain"]
    _say("$ jobspec-worker --drain", bare=True)
    log = queue.paths.root / "worker.log"
    shown = ""
    with log.open("wb") as stream:
        # In its own session, so that Ctrl-C reaches only this process, which then ends the worker.
        worker = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while worker.poll() is None:
                line = _progress(queue)
                if line != shown:
                    _say(line, over=True)
                    shown = line
                time.sleep(0.5)
        except BaseException:
            worker.terminate()
            worker.wait()
            raise
    _say("", over=True)
    if worker.returncode != 0:
        sys.stderr.write(log.read_text())
        sys.exit(f"the worker exited with {worker.returncode}")


def _progress(queue: Queue) -> str:
    ended = sum(job.state not in (State.PENDING, State.RUNNING) for job in queue.jobs())
    running = queue.jobs(State.RUNNING)
    if not running:
        return f"{ended} of 3 jobs ended"
    job = running[0]
    attempt = job.paths.attempt(job.attempt)
    parts = [f"{ended} of 3 jobs ended", job.id]
    now = records.read(attempt.progress, Progress)
    if now is None:
        return " · ".join([*parts, "starts"])
    parts += [now.phase, f"{now.done:.0f}/{now.total:.0f} {now.unit}"]
    loss = now.metrics.get("loss")
    return " · ".join([*parts, f"loss {loss:.3f}"] if loss is not None else parts)


def _check_scores(queue: Queue) -> int:
    """Whether the trained model learned what the untrained model did not know."""
    scores: dict[bool, list[float]] = {True: [], False: []}
    for job in queue.jobs(State.SUCCEEDED):
        result = records.read(job.paths.result, Result)
        score = None if result is None else result.metrics.get(METRIC)
        if score is not None:
            scores[job.spec.train is not None].append(score)
    if len(scores[False]) != 1 or len(scores[True]) != len(RATES):
        _say("not every job succeeded: see `jobspec show JOB`")
        return 1
    before, after = scores[False][0], max(scores[True])
    learned = before <= UNTRAINED_AT_MOST and after >= TUNED_AT_LEAST
    _say(
        f"avg@4 on 26 questions it was trained on: {before:.3f} before, {after:.3f} after: "
        + ("it learned" if learned else "it did NOT learn")
    )
    return 0 if learned else 1


def _jobspec(*arguments: str) -> list[str]:
    """Show and run a jobspec command. Returns the words of its output."""
    _say(f"$ {shlex.join(['jobspec', *arguments])}", bare=True)
    done = subprocess.run(
        [sys.executable, "-m", "jobspec.cli", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    sys.stdout.write(done.stdout)
    sys.stdout.flush()
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout.split()


def _say(line: str, *, bare: bool = False, over: bool = False) -> None:
    """Print a line to stderr; with `over` it replaces the last line of a terminal."""
    if over and sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}")
    elif line:
        sys.stderr.write(line + "\n" if bare else f"demo: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    run_program(main)
