"""Ranks without an interpreter's start each: imports training once, then forks a rank when asked.

    python rank_forks.py      # a request a line on stdin (JSON), an answer a line on stdout

A rank is a process of its own with the environment, signals and exit code it would have under the
rank launcher; what it saves is the seconds of importing torch, Transformers, DeepSpeed. Signals are
sent from within, at exact places (`POINTS`), by the rank that gets there.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - seconds, at a rank's first step

import worker.checkpoints.convert
import worker.training.train
from worker.checkpoints import directories, integrity
from worker.process import rank_launcher
from worker.training import training_run, zero_two
from worker.training.trainer import RowTrainer
from worker.training.training_run import TrainingRun

LONGEST_S = 120.0  # an attempt of seconds: a longer one waits for a process that is gone
GRACE_S = 3.0  # what the other ranks get once one has failed
PHASES = {"convert": worker.checkpoints.convert.main, "train": worker.training.train.main}


def always(*args: Any, **kwargs: Any) -> bool:
    return True


def evaluating(trainer: RowTrainer, model: Any, inputs: Any) -> bool:
    return not model.module.training


# Where a signal may strike: an owner's method, and whether a call of it counts.
POINTS: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "load": (training_run, "load_model", always),
    "step": (RowTrainer, "training_step", always),
    "evaluation": (RowTrainer, "summed_loss", evaluating),
    "state, before a shard": (RowTrainer, "_save_optimizer_and_scheduler", always),
    "state, after the shards": (RowTrainer, "_save_rng_state", always),
    "state, before its manifest": (integrity, "publish_manifest", always),
    "weights": (directories, "publish_directory", always),
}


def main() -> None:
    """Serve requests until stdin ends."""
    gc.freeze()  # ranks need not look through what was imported here
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        codes = run(json.loads(line))
        answers.write(json.dumps(codes) + "\n")
        answers.flush()


def run(request: dict[str, Any]) -> list[int]:
    """Fork the ranks and wait for them as the rank launcher does. Returns their exit codes."""
    pids = Path(request["attempt"]) / "pids"
    pids.unlink(missing_ok=True)
    me = os.getpid()
    forked: list[int] = []
    for rank in range(request["ranks"]):
        pid = os.fork()
        if pid == 0:
            rank_launcher.die_with_parent(signal.SIGKILL, me)
            be(rank, request)
        forked.append(pid)
    pids.with_suffix(".new").write_text(json.dumps(forked))
    pids.with_suffix(".new").rename(pids)
    return wait(forked)


def wait(pids: list[int]) -> list[int]:
    """Exit codes by rank; once one failed the others get GRACE_S, and LONGEST_S all."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + LONGEST_S
    while len(codes) < len(pids):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pid] = os.waitstatus_to_exitcode(status)
            if codes[pid]:
                deadline = min(deadline, time.monotonic() + GRACE_S)
            continue
        if time.monotonic() > deadline:
            for left in set(pids) - codes.keys():
                os.kill(left, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def be(rank: int, request: dict[str, Any]) -> None:
    """Be that rank; never returns."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["env"][rank])
    every = request["save_every"]  # steps instead of seconds, so that tests know where states are
    TrainingRun.wants_save = lambda self: self.trainer.state.global_step % every == 0
    if request.get("plain"):
        zero_two.save_memory = lambda optimizer: None
        zero_two.group_elements = lambda train, trained, resumed: None
    if request.get("emulates_float8"):
        from worker.kernels import float8

        float8.EMULATED = True
    sys.argv = [request["phase"], request["attempt"]]
    for strike in request["strikes"]:
        if strike["rank"] == rank:
            arm(strike, Path(request["attempt"]) / "pids")
    code = 1
    try:
        PHASES[request["phase"]]()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def arm(strike: dict[str, Any], pids: Path) -> None:
    """Send a signal at the `nth` call of a point, then let the call go on."""
    owner, name, counts = POINTS[strike["point"]]
    original = getattr(owner, name)
    calls = 0

    def struck(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += counts(*args, **kwargs)
        if calls == strike["nth"]:
            calls += 1  # once
            everyone = json.loads(pids.read_text())
            sys.stderr.write(f"strike: {json.dumps(strike)}\n")
            sys.stderr.flush()
            for rank in strike["to"]:
                os.kill(everyone[rank], getattr(signal, strike["signal"]))
        return original(*args, **kwargs)

    setattr(owner, name, struck)


if __name__ == "__main__":
    main()
