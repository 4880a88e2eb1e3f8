"""Training speed on one GPU, at the true layer shapes of Olmo-3-7B and Qwen3-8B.

    python -m benchmarks.gpu --shape olmo-3-7b --layers 8 --rows full
    python -m benchmarks.gpu --shape qwen3-8b --layers 8 --rows mixed

Weights are random; depth is as many layers as fit beside their optimizer states (`--layers`), and
is said. `--rows full`: 8 rows of 8,192 tokens a step. `--rows mixed`: 32 rows a step, of lengths
like those of real reasoning traces (log-normal, median 1,177, mean about 1,900 tokens). Each route
is a process of its own, one after the other, all on DeepSpeed ZeRO-2 with gradient checkpointing:

    trl          TRL's SFTTrainer as its documentation shows it
    trl-tuned    with fused AdamW, length grouping
    trl-liger    trl-tuned with Liger's kernels
    ours         this project's train phase
    ours-packed  the same with `train.packing`

Prints, and writes to --output, medians over the steps after two warm-up steps: real tokens a second
(padding not counted), MFU, HFU (the share of peak with recomputation counted), peak memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobspec.models.config import KNOWN_CONFIGS

REPO = Path(__file__).parents[1]
WARM_UP = 2
SHAPES: dict[str, dict[str, Any]] = {
    "olmo-3-7b": KNOWN_CONFIGS["allenai/Olmo-3-7B-Think"]
    | {"num_key_value_heads": 32, "max_position_embeddings": 65536, "tie_word_embeddings": False},
    "qwen3-8b": KNOWN_CONFIGS["Qwen/Qwen3-8B"]
    | {"max_position_embeddings": 40960, "tie_word_embeddings": False},
}
ROWS_A_STEP = {"full": 8, "mixed": 32}
ROUTES = ("trl", "trl-tuned", "trl-liger", "ours", "ours-packed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="olmo-3-7b")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rows", choices=ROWS_A_STEP, default="full")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--routes", default=",".join(ROUTES))
    parser.add_argument("--max-length", type=int, default=8192)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", choices=ROUTES, help=argparse.SUPPRESS)
    parser.add_argument("--dir", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        _trl(args)
    else:
        _all(args)


def _all(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as directory:
        args.dir = Path(directory)
        run = [
            sys.executable,
            "-c",
            "import benchmarks.gpu as g; g._make()",
            json.dumps(_facts(args)),
        ]
        subprocess.run(run, cwd=REPO, check=True)
        facts = json.loads((args.dir / "facts.json").read_text())
        print(json.dumps(facts, indent=1), flush=True)
        results = {}
        for route in args.routes.split(","):
            started = time.monotonic()
            try:
                rows = _ours(args, route) if route.startswith("ours") else _run_trl(args, route)
                results[route] = _sum_up(rows, facts)
            except (subprocess.CalledProcessError, OSError) as error:
                results[route] = {"failed": str(error)[-2000:]}
            results[route]["wall_s"] = round(time.monotonic() - started, 1)
            print(route, json.dumps(results[route]), flush=True)
    if args.output:
        args.output.write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    _table(results)


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    names = ("shape", "layers", "rows", "steps", "max_length")
    return {name: getattr(args, name) for name in names} | {"dir": str(args.dir)}


def _lengths(facts: dict[str, Any]) -> list[int]:
    count = ROWS_A_STEP[facts["rows"]] * facts["steps"]
    if facts["rows"] == "full":
        return [facts["max_length"]] * count
    rng = random.Random(0)
    drawn = (rng.lognormvariate(math.log(1177), 0.97) for _ in range(count))
    return [max(64, min(facts["max_length"], int(length))) for length in drawn]


def _make() -> None:
    """Model, tokenizer and rows on disk; what they are in facts.json."""
    import torch
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM

    from worker.demo import tiny_model
    from worker.training import flops

    facts = json.loads(sys.argv[1])
    directory = Path(facts["dir"])
    shape = SHAPES[facts["shape"]] | {"num_hidden_layers": facts["layers"]}
    if "layer_types" in shape:
        shape["layer_types"] = shape["layer_types"][: facts["layers"]]
    config = AutoConfig.for_model(shape.pop("model_type"), **shape, eos_token_id=0, pad_token_id=1)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory / "model")
    tokenizer = tiny_model.make_tokenizer()
    tokenizer.save_pretrained(directory / "model")
    lengths = _lengths(facts)
    rng = random.Random(1)
    rows = []
    for number, length in enumerate(lengths):
        ids = [rng.randrange(2, 250) for _ in range(length)]
        prompt = length // 8
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:], "row": number + 1})
    Dataset.from_list(rows).save_to_disk(directory / "rows")
    work = flops.Shape.of(model)
    trained = sum(length - length // 8 for length in lengths)
    facts |= {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": sum(lengths),
        "flops": work.step(lengths, trained),
        "again_flops": work.again(lengths, trained, layers=True),
        "peak": flops.peak(torch.cuda.get_device_name()),
    }
    (directory / "facts.json").write_text(json.dumps(facts))


def _settings(facts: dict[str, Any], **train: Any) -> Any:
    from jobspec.spec.schema import DataSpec, JobSpec, ModelSpec, TrainSpec

    directory = Path(facts["dir"])
    return JobSpec(
        name="gpu",
        model=ModelSpec(name=str(directory / "model")),
        data=DataSpec(path=str(directory / "rows"), eval_split_ratio=0.0),
        train=TrainSpec(
            num_train_epochs=1.0,
            max_length=facts["max_length"],
            global_batch_size=ROWS_A_STEP[facts["rows"]],
            checkpoint_interval_s=1e6,
            **train,
        ),
        eval=None,
    )


def _ours(args: argparse.Namespace, route: str) -> list[dict[str, Any]]:
    """The train phase itself, on a job directory made by hand."""
    from jobspec.spec import identity
    from jobspec.storage.layout import RootPaths
    from worker.demo import tiny_model
    from worker.launch import plan

    spec = _settings(_facts(args), packing=route == "ours-packed")
    data = identity.canonical(spec)
    root = RootPaths(args.dir / route)
    attempt = root.job(identity.job_id(spec.name, data)).attempt(1)
    attempt.dir.mkdir(parents=True)
    (attempt.job_dir / "spec.json").write_bytes(data)
    prepared = root.prepared / "rows"
    prepared.mkdir(parents=True)
    (prepared / "train").symlink_to(args.dir / "rows")
    done = {
        "dir": "cache/prepared/rows",
        "rows_eval": 0,
        "inference_chat_template": tiny_model.TEMPLATE,
    }
    done["eos_token_ids"] = [0]
    attempt.done("prepare").write_text(json.dumps(done))
    devices = plan.Devices(1, "cuda")
    tmp = args.dir / "tmp"
    tmp.mkdir(exist_ok=True)
    env = plan.phase_environment(os.environ, root=root.root, tmp=tmp, devices=devices)
    command = plan.phase_command("train", attempt.dir, ranks=1, port=29511)
    _run(command, env, args.dir / f"{route}.log")
    rows = [json.loads(line) for line in attempt.metrics.read_text().splitlines()]
    summary = json.loads(attempt.done("train").read_text())
    print(json.dumps(summary["engine"]), flush=True)
    return [
        {"step_s": row["step_s"], "loss": row["loss"], "peak_gib": summary["peak_memory_gib"]}
        for row in rows
        if "loss" in row
    ]


def _run(command: list[str], env: dict[str, str], log: Path) -> None:
    """Run a route in a process of its own. Raises OSError with the end of its log if it fails."""
    with log.open("wb") as stream:
        done = subprocess.run(
            command, cwd=REPO, env=env, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise OSError(log.read_text()[-2000:])


def _run_trl(args: argparse.Namespace, route: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--one", route, "--dir", str(args.dir)]
    command += [
        "--rows",
        args.rows,
        "--max-length",
        str(args.max_length),
        "--steps",
        str(args.steps),
    ]
    env = dict(os.environ, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    env |= {"MASTER_PORT": "29512", "HF_HUB_OFFLINE": "1"}
    _run(command, env, args.dir / f"{route}.log")
    return json.loads((args.dir / f"{route}.json").read_text())


def _trl(args: argparse.Namespace) -> None:
    """What a user would write with TRL; `trl-tuned` adds what its documentation advises."""
    import torch
    from datasets import load_from_disk
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tuned = args.one != "trl"
    zero = {
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
    }
    config = SFTConfig(
        output_dir=str(args.dir / f"{args.one}-out"),
        deepspeed=zero,
        bf16=True,
        learning_rate=1e-5,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ROWS_A_STEP[args.rows],
        gradient_checkpointing=True,
        optim="adamw_torch_fused" if tuned else "adamw_torch",
        train_sampling_strategy="group_by_length" if tuned else "random",
        use_liger_kernel=args.one == "trl-liger",
        max_length=args.max_length,
        model_init_kwargs={"dtype": "bfloat16"},
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        adam_beta2=0.95,
        weight_decay=0.1,
    )
    seen: list[dict[str, Any]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.began = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            seen.append({"step_s": time.monotonic() - self.began})

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs and seen:
                seen[-1]["loss"] = logs["loss"]

    trainer = SFTTrainer(
        model=str(args.dir / "model"),
        args=config,
        train_dataset=load_from_disk(str(args.dir / "rows")).remove_columns("row"),
        callbacks=[Clock()],
    )
    trainer.train()
    peak = torch.cuda.max_memory_allocated() / 2**30
    rows = [{**row, "peak_gib": peak} for row in seen]
    (args.dir / f"{args.one}.json").write_text(json.dumps(rows))


def _sum_up(rows: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """Rows of a step differ in length, so time is summed over the steps that count, not averaged.

    All routes see the same rows once; the steps after warm-up hold a like share of their tokens.
    """
    counted = [row["step_s"] for row in rows[WARM_UP:]]
    share = len(counted) / len(rows)
    seconds = sum(counted)
    out: dict[str, Any] = {
        "steps": len(counted),
        "step_s": round(statistics.median(counted), 3),
        "tokens_per_second": round(facts["tokens"] * share / seconds),
        "peak_gib": round(rows[-1]["peak_gib"], 1),
        "loss": [round(row.get("loss", float("nan")), 4) for row in (rows[0], rows[-1])],
    }
    if facts["peak"]:
        work = facts["flops"] * share
        out["mfu"] = round(work / seconds / facts["peak"], 3)
        out["hfu"] = round((work + facts["again_flops"] * share) / seconds / facts["peak"], 3)
    return out


def _table(results: dict[str, dict[str, Any]]) -> None:
    base = results.get("trl-tuned", {}).get("tokens_per_second")
    print(f"{'route':12} {'tok/s':>8} {'ratio':>6} {'MFU':>6} {'HFU':>6} {'GiB':>6}")
    for route, row in results.items():
        if "failed" in row:
            print(f"{route:12} failed")
            continue
        ratio = row["tokens_per_second"] / base if base else float("nan")
        mfu, hfu = row.get("mfu", float("nan")), row.get("hfu", float("nan"))
        print(
            f"{route:12} {row['tokens_per_second']:8} {ratio:6.2f} {mfu:6.3f} {hfu:6.3f} "
            f"{row['peak_gib']:6}"
        )


if __name__ == "__main__":
    main()
