"""What the tests of the whole way share: a tiny model, specs on it, workers as real processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobspec.queue.queue import Queue
from jobspec.spec.schema import DataSpec, EvalSpec, JobSpec, ModelSpec, TrainSpec

REPO = Path(__file__).parents[2]
DEADLINE_S = 240.0
PATIENT = '''
import time
from pathlib import Path
from transformers import Olmo3ForCausalLM


class Patient(Olmo3ForCausalLM):
    """A model whose steps take as long as a large one's, and nobody's processor, until a word."""

    def __init__(self, config):
        super().__init__(config)
        self.model.register_forward_pre_hook(self.linger)

    def linger(self, module, args):
        if not Path("{hurry}").exists():
            time.sleep({pace_s})
'''


def queue_at(directory: Path, *, lease_s: float = 5.0) -> Queue:
    """A root whose leases are short, since its workers are killed and waited for.

    `lease_s` may be shorter still where no two workers ever live at once.
    """
    directory.mkdir(exist_ok=True)
    return Queue.create(directory / "root", heartbeat_s=0.5, lease_s=lease_s)


def tiny_spec(tiny: Path, *, evaluate: bool = False, name: str = "way", **train: Any) -> JobSpec:
    """A spec that trains the tiny model on its own rows."""
    data = tiny / "train.jsonl"
    settings: dict[str, Any] = {
        "learning_rate": 5e-3,
        "num_train_epochs": 4.0,
        "max_length": 512,
        "per_device_train_batch_size": 4,
        "gradient_checkpointing": False,
        **train,
    }
    scored = EvalSpec(
        benchmarks=("aime_demo",),
        benchmark_dir=str(tiny / "benchmarks"),
        avg_k=2,
        max_gen_toks=48,
        limit=4,
    )
    return JobSpec(
        name=name,
        model=ModelSpec(name=str(tiny / "model"), dtype="float32"),
        data=DataSpec(path=str(data), sha256=hashlib.sha256(data.read_bytes()).hexdigest()),
        train=TrainSpec(**settings),
        eval=scored if evaluate else None,
    )


def coded_model(tiny: Path, model: Path, code: str) -> Path:
    """The tiny model with a class of its own: the one, of this name, that `code` defines."""
    shutil.copytree(tiny / "model", model)
    name = model.name.capitalize()
    (model / f"{model.name}.py").write_text(code)
    config = msgspec.json.decode((model / "config.json").read_bytes())
    config |= {"auto_map": {"AutoModelForCausalLM": f"{model.name}.{name}"}}
    (model / "config.json").write_bytes(msgspec.json.encode(config | {"architectures": [name]}))
    return model


def patient_model(tiny: Path, directory: Path, pace_s: float) -> Path:
    """A model in `directory` whose forwards last `pace_s`, until somebody says `hurry`.

    So that a job is in mid-training when a test has got there, however fast the machine, and is
    done soon after it: saving a state now and then costs more than all of a tiny model's steps.
    """
    model = directory / "patient"
    return coded_model(tiny, model, PATIENT.format(hurry=model / "hurry", pace_s=pace_s))


def hurry(model: Path) -> None:
    (model / "hurry").touch()


def with_model(spec: JobSpec, model: Path) -> JobSpec:
    """A spec on another model, whose own code is run where it has any."""
    coded = any(model.glob("*.py"))
    changed = msgspec.structs.replace(spec.model, name=str(model), trust_remote_code=coded)
    return msgspec.structs.replace(spec, model=changed)


@contextlib.contextmanager
def worker(queue: Queue, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process; killed at the end if it still runs."""
    log = queue.paths.root / f"worker-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "worker", "--root", str(queue.paths.root), *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=REPO, stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        sys.stdout.write(log.read_text())  # pytest shows it if the test fails


def drain(queue: Queue, *options: str) -> None:
    """One worker until nothing is left to do."""
    with worker(queue, "--drain", *options) as process:
        assert process.wait(DEADLINE_S) == 0


def until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Wait for a condition to be true; its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.02)
    return value


def rows(attempt: Path) -> list[dict[str, Any]]:
    """An attempt's metric rows; none where it has not begun."""
    try:
        lines = (attempt / "metrics.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [msgspec.json.decode(line) for line in lines]


def losses(job_dir: Path) -> dict[int, float]:
    """The loss by step; where attempts overlap the later one's."""
    found: dict[int, float] = {}
    for attempt in sorted((job_dir / "attempts").iterdir(), key=lambda path: int(path.name)):
        found |= {row["step"]: row["loss"] for row in rows(attempt) if "loss" in row}
    return found


def ranks_of(attempt: Path) -> list[int]:
    """PIDs of the processes that work on an attempt, whatever their session or parent."""
    pids: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str(attempt).encode() in (entry / "cmdline").read_bytes():
                    pids.append(int(entry.name))
    return pids


def signal_to(process: subprocess.Popen[bytes], name: str) -> None:
    os.kill(process.pid, getattr(signal, name))
