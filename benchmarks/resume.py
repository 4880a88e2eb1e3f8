"""Whether killed trainings resume bit for bit: `python -m benchmarks.resume [--routes trl,ours]`.

One tiny model and 38 rows are trained for three epochs of five steps, whose last batch is
incomplete. Each route runs once undisturbed and once killed (SIGKILL) three times, in step 4, while
the checkpoint of step 6 is written and after that of step 9, and is started again each time as its
documentation says (benchmarks/resume_script.py):

    trl           TRL's SFTTrainer with its defaults, `resume_from_checkpoint` the last checkpoint
    trl-packed    the same with `packing=True`
    trl-grouped   the same with `train_sampling_strategy="group_by_length"`
    trl-lora      the same with LoRA and dropout
    deepspeed     Transformers' Trainer with DeepSpeed, ZeRO-2
    ours          `jobspec audit resume`, killed in a save, after one and in a step

With `--environments DIR` also `llamafactory`, `ms-swift` and `axolotl`, each by the Python of its
own environment `DIR/<name>`, fine-tuned fully (benchmarks/resume_tools.py).

Printed are rows that an epoch repeats or skips, the largest difference of a step's loss, whether
the optimizer's state and the weights have equal bits at the end, and what became of the kill during
a save. If the next start fails, the newest checkpoint is deleted, as a user would, and it is
started again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor as Pool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import machine, table

IN_STEP, IN_SAVE, AFTER_SAVE = "in a step", "in a save", "after a save"
REPO = Path(__file__).resolve().parents[1]
ROWS, STEPS_PER_EPOCH, EPOCHS, SAVE_STEPS = 38, 5, 3, 3
KILLS = ((IN_STEP, 4), (IN_SAVE, 6), (AFTER_SAVE, 9))
_LONGEST_S = 1800.0
_ARGUMENTS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": EPOCHS,
    "learning_rate": 1e-3,
    "save_steps": SAVE_STEPS,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}
_ZERO_2 = {
    "zero_optimization": {"stage": 2},
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}
# By route: the tool, what it sets besides `_ARGUMENTS`, and its LoRA.
ROUTES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "trl": ("trl", {"max_length": 512}, None),
    # Two rows a pack, so that there are as many steps.
    "trl-packed": (
        "trl",
        {"max_length": 256, "packing": True, "gradient_accumulation_steps": 1},
        None,
    ),
    "trl-grouped": ("trl", {"max_length": 512, "train_sampling_strategy": "group_by_length"}, None),
    "trl-lora": (
        "trl",
        {"max_length": 512},
        {"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
    ),
    "deepspeed": ("transformers", {"deepspeed": _ZERO_2}, None),
}
OURS = "ours"
TOOLS = ("llamafactory", "ms-swift", "axolotl")  # routes by the names of their packages
ROUTES |= {tool: (tool, {}, None) for tool in TOOLS}
_VERSIONS = "import sys; from importlib.metadata import version; "
_VERSIONS += "print(*(f'{name} {version(name)}' for name in sys.argv[1:]), sep=', ')"


@dataclass
class Outcome:
    """What was found of one route."""

    repeated: int
    skipped: int
    loss: float
    optimizer: str
    weights: str
    in_save: str = ""

    @property
    def cells(self) -> list[str]:
        loss = "0" if not self.loss else f"{self.loss:.1e}"
        rows = f"{self.repeated} / {self.skipped}"
        return [rows, loss, self.optimizer, self.weights, self.in_save]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--routes")
    parser.add_argument("--jobs", type=int, default=1, help="routes at the same time")
    args = parser.parse_args()
    own = {} if args.environments is None else _environments(args.environments)
    usual = [name for name in (*ROUTES, OURS) if name not in TOOLS or name in own]
    routes = usual if args.routes is None else args.routes.split(",")
    print(machine("torch", "transformers", "trl", "accelerate", "deepspeed"), flush=True)
    for tool, python in own.items():
        command = [python, "-c", _VERSIONS, tool, "transformers", "trl", "torch"]
        print(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    with tempfile.TemporaryDirectory(prefix="resume-bench-") as name, Pool(args.jobs) as pool:
        place = Path(name)
        _make(place)
        rows = list(pool.map(lambda each: _row(place, each, own.get(each, sys.executable)), routes))
    head = ["", "rows repeated / skipped", "largest loss difference", "optimizer", "weights"]
    print(table([*head, "killed in a save"], rows))


def _row(place: Path, route: str, python: str) -> list[str]:
    try:
        outcome = _ours(place) if route == OURS else _audit(place / route, place, route, python)
    except RuntimeError as error:  # the rows of the other routes are still worth having
        return [route, "", "", "", "", f"failed: {error}"]
    print(f"{route}: {outcome}", file=sys.stderr, flush=True)
    return [route, *outcome.cells]


def _environments(directory: Path) -> dict[str, str]:
    """The Python of each tool that has an environment."""
    found = {tool: directory.resolve() / tool / "bin/python" for tool in TOOLS}
    return {tool: str(python) for tool, python in found.items() if python.exists()}


def _make(place: Path) -> None:
    """The demo's tiny model, and rows that all differ."""
    from worker.demo import tiny_model

    tiny_model.make_model(place / "model")
    draws = random.Random(0)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Count to {number}."},
                {"role": "assistant", "content": _answer(number)},
            ]
        }
        for number in draws.sample(range(20, 70), ROWS)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _answer(number: int) -> str:
    # With reasoning, because the template's generation prompt opens it.
    return f"<think>{number}</think>" + " ".join(map(str, range(number - 20, number)))


# ---- another tool


@dataclass
class _Run:
    """One training of a tool, in a directory of its own."""

    directory: Path
    place: Path
    route: str
    python: str = sys.executable

    @property
    def output(self) -> Path:
        return self.directory / "output"

    def start(self, kill: tuple[str, int] | None) -> int:
        """Start the script; returns its exit code, or -9 once it was killed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        order = None if kill is None else {"point": kill[0], "step": kill[1]}
        (self.directory / "watch.json").write_text(json.dumps(order))
        reached = self.directory / "reached"
        reached.unlink(missing_ok=True)
        tool, more, lora = ROUTES[self.route]
        settings = {
            "tool": tool,
            "model": str(self.place / "model"),
            "rows": str(self.place / "rows.jsonl"),
            "arguments": {**_ARGUMENTS, **more, "output_dir": str(self.output)},
            "lora": lora,
            "watch": str(self.directory),
        }
        (self.directory / "settings.json").write_text(json.dumps(settings))
        script = "resume_tools" if self.route in TOOLS else "resume_script"
        command = [self.python, "-m", f"benchmarks.{script}", str(self.directory / "settings.json")]
        with (self.directory / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=REPO, env=_environment(self.place, self.route), stdout=log, stderr=log
            )
        deadline = time.monotonic() + _LONGEST_S
        while process.poll() is None and not reached.exists():
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.01)
        if process.returncode is None:
            process.kill()
        return process.wait()

    def last_line(self) -> str:
        """Of its log: the error."""
        lines = (self.directory / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def steps(self) -> list[dict[str, Any]]:
        lines = (self.directory / "steps.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def newest(self) -> Path:
        found = self.output.glob("checkpoint-*")
        return max(found, key=lambda path: int(path.name.partition("-")[2]))

    def final(self) -> Path:
        """Where the trained weights are: ms-swift keeps them in its last checkpoint only."""
        return self.output if any(self.output.glob("*.safetensors")) else self.newest()


def _environment(place: Path, route: str) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    ours = {"HF_HOME": str(place / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    if route in TOOLS:  # these start a single process without a launcher
        own = {"USE_HF": "1", "DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, **ours, **own}
    return {**os.environ, **ranks, **ours, "DS_ACCELERATOR": "cpu", "MASTER_PORT": str(port)}


def _audit(directory: Path, place: Path, route: str, python: str) -> Outcome:
    calm, killed = (_Run(directory / name, place, route, python) for name in ("calm", "killed"))
    if calm.start(None) != 0:
        raise RuntimeError(f"{calm.last_line()}")
    in_save = ""
    for kill in (*KILLS, None):
        code = killed.start(kill)
        if code > 0:
            newest = killed.newest()
            in_save = f"{newest.name} can't be resumed: {killed.last_line()[:90]}"
            shutil.rmtree(newest)
            code = killed.start(kill)
        if (code != -9) == (kill is not None) or code > 0:
            raise RuntimeError(f"{kill}: exit {code}: {killed.last_line()}")
        if kill is not None and kill[0] == IN_SAVE:
            in_save = f"{killed.newest().name}, resumed from"
    return _compare(calm, killed, in_save)


def _compare(calm: _Run, killed: _Run, in_save: str) -> Outcome:
    expected, found = _effective(calm.steps), _effective(killed.steps)
    largest = max(
        (abs(a - b) for step in expected
         for a, b in zip(expected[step][1], found.get(step, ([], [math.inf]))[1], strict=False)),
        default=math.inf,
    )  # fmt: skip
    repeated = skipped = 0
    per_epoch = max(expected) // EPOCHS
    for first in range(1, max(expected) + 1, per_epoch):
        epoch = range(first, first + per_epoch)
        counts = [_rows_of(each, epoch) for each in (expected, found)]
        repeated += sum((counts[1] - counts[0]).values())
        skipped += sum((counts[0] - counts[1]).values())
    return Outcome(
        repeated,
        skipped,
        largest,
        optimizer=_equal(calm.newest(), killed.newest(), optimizer=True),
        weights=_equal(calm.final(), killed.final(), optimizer=False),
        in_save=in_save,
    )


_Steps = dict[int, tuple[list[int], list[float]]]


def _effective(steps: list[dict[str, Any]]) -> _Steps:
    """The rows and losses of each step, as the last attempt that trained it did."""
    found: _Steps = defaultdict(lambda: ([], []))
    before = 0
    for each in steps:
        if each["step"] < before:  # resumed: what follows replaces these steps
            for step in [step for step in found if step >= each["step"]]:
                del found[step]
        before = each["step"]
        found[before][0].extend(each["rows"])
        found[before][1].append(each["loss"])
    return found


def _rows_of(steps: _Steps, epoch: range) -> Counter[int]:
    return Counter(row for step in epoch for row in steps.get(step, ([], []))[0])


def _equal(one: Path, other: Path, *, optimizer: bool) -> str:
    """`identical`, or the largest difference of the tensors in the files of two directories."""
    import safetensors.torch
    import torch

    from worker.audit.leaves import differs, distance, leaves

    patterns = ("optimizer.pt", "*/*optim_states.pt") if optimizer else ("*.safetensors",)
    files = sorted(file for pattern in patterns for file in one.glob(pattern))
    if not files:
        return "none"
    largest, different = 0.0, False
    for file in files:
        twin = other / file.relative_to(one)
        if not twin.exists():
            return f"no {twin.name}"
        values = [
            dict(leaves(torch.load(each, weights_only=False) if optimizer
                        else safetensors.torch.load_file(each)))
            for each in (file, twin)
        ]  # fmt: skip
        for path in values[0]:
            pair = values[0][path], values[1].get(path)
            if differs(*pair):
                different, largest = True, max(largest, distance(*pair) or 0.0)
    return f"differ by {largest:.1e}" if different else "identical"


# ---- ours


def _ours(place: Path) -> Outcome:
    spec = {
        "name": "resume",
        "model": {"name": str(place / "model"), "dtype": "float32"},
        "data": {"path": str(place / "rows.jsonl"), "eval_split_ratio": 0.0},
        "train": {"learning_rate": 1e-3, "packing": "auto", "max_length": 512},
        "eval": None,
    }
    (place / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "jobspec.cli", "audit", "resume", str(place / "spec.json")]
    # With this seed it is killed in a step, while a checkpoint is written, and after one.
    command += ["--seed", "1", "--json", "--root", str(place / "root")]
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, check=False)
    audit = json.loads(done.stdout)
    parts = {part["name"]: part for part in audit["parts"]}
    rows = parts["row order"]["different"]
    return Outcome(
        repeated=rows,
        skipped=rows,
        loss=parts["losses"]["largest_difference"],
        optimizer=_of_part(parts["optimizer state"]),
        weights=_of_part(parts["final weights"]),
        in_save=_in_save(audit["kills"]),
    )


def _of_part(part: dict[str, Any]) -> str:
    return "identical" if not part["different"] else f"differ by {part['largest_difference']:.1e}"


def _in_save(kills: list[dict[str, Any]]) -> str:
    found = [kill for kill in kills if "before" in kill["point"] or "its part" in kill["point"]]
    return "; ".join(
        f"step-{kill['step']} incomplete, resumed from step-{kill['resumed_from']}"
        for kill in found
    )


if __name__ == "__main__":
    main()
