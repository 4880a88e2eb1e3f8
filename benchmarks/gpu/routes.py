"""The routes of `make gpu`, most important first, and the figures of each."""

from __future__ import annotations

import functools
import json
import shutil
from datetime import datetime
from typing import Any

from benchmarks.gpu.bench import Bench, Inputs, Route, shorten
from benchmarks.gpu.inputs import WARM_UP
from jobspec.models.devices import peak
from jobspec.spec import builder, identity
from jobspec.storage.layout import JobPaths, RootPaths

GPU_TESTS = ("tests/integration/test_gpu.py", "tests/worker/inference/test_engines.py")
TRAIN = "worker.training.train"
EMULATED_FLOAT8 = "benchmarks.gpu.emulated_float8"


def run_demo(bench: Bench) -> dict[str, Any]:
    """The README's first command: its first line and its judgement."""
    root = str(bench.dir / "demo")
    return read_demo(bench.process("demo", "-m", "worker.demo.run", "--root", root))


def read_demo(output: str) -> dict[str, Any]:
    """What the demo said of the machine, and of what the model learned."""
    said = [line.removeprefix("demo: ") for line in output.splitlines() if "demo: " in line]
    (scores,) = [line for line in said if "questions it was trained on" in line]
    return {"machine": said[0], "scores": scores}


def run_tests(bench: Bench) -> dict[str, Any]:
    """The tests marked `gpu`. Another torch may warn of other things, so warnings are no errors."""
    arguments = [
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-W",
        "default",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
    ]
    output = bench.process("tests", *arguments, *GPU_TESTS)
    lines = output.strip().splitlines()
    skips = [line.removeprefix("SKIPPED ") for line in lines if line.startswith("SKIPPED ")]
    return {"summary": lines[-1].strip("= "), "skips": [shorten(line) for line in skips]}


def run_generation(bench: Bench) -> dict[str, Any]:
    out = bench.dir / "generation.json"
    directory = bench.inputs().dir
    bench.process("generation", "-m", "benchmarks.gpu.generation", str(directory), str(out))
    result = json.loads(out.read_text())
    joules = bench.energy.joules(*result.pop("window"))
    return result | {"joules_per_token": joules / result["tokens"] if joules else None}


def train(
    bench: Bench,
    *,
    kind: str,
    name: str,
    depth: str = "part",
    module: str = TRAIN,
    **settings: Any,
) -> dict[str, Any]:
    """This project's train phase itself, on an attempt's directory made by hand.

    Args:
        kind: of the rows.
        depth: `part` of the model's layers or the `whole`.
        module: what runs the phase.
        settings: fields of `train` that differ from what `jobspec new` writes.
    """
    if bench.toy and "precision" in settings:
        module = EMULATED_FLOAT8
    inputs = bench.inputs(depth)
    attempt = _make_attempt(bench, inputs, name, kind, settings)
    profile = bench.dir / f"{name}.profile.json"
    command = ["-m", module, str(attempt.dir)]
    if bench.profile and module == TRAIN:
        command = ["-m", "benchmarks.gpu.profiled", str(profile), str(attempt.dir)]
    bench.process(name, *command, rank=True)
    rows = [json.loads(line) for line in attempt.metrics.read_text().splitlines()]
    steps = [
        {
            "step_s": row["step_s"],
            "tokens": row["tokens_per_second"] * row["step_s"],
            "loss": row["loss"],
            "ended_at": datetime.fromisoformat(row["time"]).timestamp(),
        }
        for row in rows
        if row.get("loss") is not None
    ]
    summary = json.loads(attempt.done("train").read_text())
    memory = summary.get("memory") or {}
    engine = summary["engine"]
    shutil.rmtree(bench.dir / name)  # its weights: a memory disk would not hold every route's
    if depth == "whole":
        shutil.rmtree(inputs.dir)
    return (
        _speed(bench, kind, steps, inputs.facts)
        | {
            "peak_gib": summary["peak_memory_gib"],
            "predicted_gib": memory.get("predicted_gib"),
            "attention": engine["attention"],
            "kernels": _kernels(engine),
        }
        | ({"profile": json.loads(profile.read_text())} if profile.exists() else {})
    )


def _kernels(engine: dict[str, Any]) -> str | None:
    reason = engine["compiled_reason"]
    layers = f"not compiled: {shorten(reason)}" if reason else engine["kernels"]
    if engine["compiled"]:
        layers = "compiled"
    return ", ".join(filter(None, (layers, engine["float8"] and "float8"))) or None


def _make_attempt(
    bench: Bench, inputs: Inputs, name: str, kind: str, settings: dict[str, Any]
) -> Any:
    fixed = {
        "max_length": bench.size.max_length,
        "global_batch_size": bench.size.rows[kind],
        "checkpoint_interval_s": 1e6,
    }
    changes = [f"train.{key}={json.dumps(value)}" for key, value in (fixed | settings).items()]
    dtype = "bfloat16" if "precision" in settings else bench.size.dtype
    request = builder.Request(
        models=[str(inputs.dir / "model")],
        epochs=1.0,
        data=str(inputs.dir / kind),
        name="gpu",
        settings=[
            f"model.dtype={dtype}",
            "data.eval_split_ratio=0",
            "eval=null",
            *changes,
        ],
    )
    (spec,) = builder.build(request)
    data = identity.canonical(spec)
    root = RootPaths(bench.dir / name)
    attempt = root.job(identity.job_id(spec.name, data)).attempt(1)
    attempt.dir.mkdir(parents=True)
    JobPaths(attempt.job_dir).spec.write_bytes(data)
    prepared = root.prepared / "rows"
    prepared.mkdir(parents=True)
    (prepared / "train").symlink_to(inputs.dir / kind)
    done = {
        "dir": str(prepared.relative_to(root.root)),
        "rows_eval": 0,
        "inference_chat_template": "{{ messages }}",
        "eos_token_ids": [0],
    }
    attempt.done("prepare").write_text(json.dumps(done))
    return attempt


def train_by_trl(bench: Bench, *, kind: str, name: str) -> dict[str, Any]:
    inputs = bench.inputs()
    out = bench.dir / f"{name}.json"
    # In one process TRL needs no rendezvous, but DeepSpeed does, which only a GPU's run uses.
    arguments = ["-m", "benchmarks.gpu.trl_route", str(inputs.dir), kind, str(out)]
    bench.process(name, *arguments, rank=not bench.toy)
    result = json.loads(out.read_text())
    steps, before = result["steps"], 0.0
    for step in steps:
        step["tokens"] = step["num_tokens"] - before
        before = step["num_tokens"]
    kernels = "liger" if result["liger"] else None
    return _speed(bench, kind, steps, inputs.facts) | {
        "peak_gib": result["peak_gib"],
        "attention": "sdpa",
        "kernels": kernels,
    }


def _speed(bench: Bench, kind: str, steps: list[dict[str, Any]], facts: Any) -> dict[str, Any]:
    """Figures over the steps that count. Work is shared among steps by their tokens."""
    counted = steps[WARM_UP:]
    seconds = sum(step["step_s"] for step in counted)
    tokens = sum(step["tokens"] for step in counted)
    rows = facts["rows"][kind]
    device_peak = peak(facts["device"])
    work = rows["flops"] * tokens / rows["tokens"]
    joules = bench.energy.joules(steps[WARM_UP - 1]["ended_at"], steps[-1]["ended_at"])
    return {
        "steps": len(counted),
        "tokens_per_second": tokens / seconds,
        "step_s": seconds / len(counted),
        "mfu": work / seconds / device_peak if device_peak else None,
        "losses": [step["loss"] for step in (steps[0], steps[-1])],
        "joules_per_token": joules / tokens if joules else None,
    }


def _train_route(title: str, limit_s: float, kind: str, name: str, **more: Any) -> Route:
    return Route(title, limit_s, functools.partial(train, kind=kind, name=name, **more))


def _trl_route(title: str, limit_s: float, kind: str, name: str) -> Route:
    return Route(title, limit_s, functools.partial(train_by_trl, kind=kind, name=name))


# What is turned off, or on, beside the defaults, to show what each default brings.
SWITCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "unpacked": ("without packing", {"packing": False}),
    "recomputed": ("all layers recomputed", {"gradient_checkpointing": True}),
    "kept": ("no layers recomputed", {"gradient_checkpointing": False}),
    "no-liger": ("without Liger", {"use_liger_kernel": False}),
    "liger-alone": ("with the norms that Liger leaves", {"module": "benchmarks.gpu.liger_alone"}),
    "compiled": ("compiled layers", {"torch_compile": True}),
    "float8": ("compiled layers in float8", {"torch_compile": True, "precision": "float8"}),
    "float8-alone": ("float8, layers not compiled", {"precision": "float8"}),
}
_SWITCHED = (
    *(("mixed", "unpacked"), ("full", "recomputed"), ("full", "compiled"), ("full", "liger-alone")),
    *(("full", "no-liger"), ("full", "kept"), ("mixed", "recomputed"), ("mixed", "compiled")),
    *(("mixed", "kept"), ("full", "float8"), ("mixed", "float8"), ("full", "float8-alone")),
)


def _switch_route(kind: str, switch: str) -> Route:
    what, settings = SWITCHES[switch]
    return _train_route(f"{kind} rows, {what}", 110, kind, f"{kind}-{switch}", **settings)


def _routes() -> dict[str, Route]:
    title = "full rows, the whole model, defaults"
    return {
        "demo": Route("demo", 150, run_demo),
        "full-defaults": _train_route("full rows, defaults", 120, "full", "full-defaults"),
        "mixed-defaults": _train_route("mixed rows, defaults", 90, "mixed", "mixed-defaults"),
        "full-trl": _trl_route("full rows, TRL tuned", 90, "full", "full-trl"),
        "mixed-trl": _trl_route("mixed rows, TRL tuned", 110, "mixed", "mixed-trl"),
        "whole-defaults": _train_route(title, 180, "full", "whole-defaults", depth="whole"),
        "generation": Route("generation", 75, run_generation),
        "tests": Route("tests marked `gpu`", 120, run_tests),
        **{f"{kind}-{switch}": _switch_route(kind, switch) for kind, switch in _SWITCHED},
    }


ROUTES = _routes()
