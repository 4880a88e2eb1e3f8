"""Tools that bring their own versions of Transformers, as their documentation configures them.

    DIRECTORY/<tool>/bin/python -m benchmarks.resume_tools SETTINGS.json

Full fine-tuning, resumed from the last checkpoint; runs in the tool's own environment. What differs
from the examples is the tiny model, its data and steps, and that it runs on a CPU in float32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from benchmarks.resume_watch import Watch

MAX_LENGTH = 512


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    Watch(Path(settings["watch"])).install()
    output = Path(settings["arguments"]["output_dir"])
    last = get_last_checkpoint(str(output)) if output.is_dir() else None
    TOOLS[settings["tool"]](settings, settings["arguments"], last)


def llama_factory(settings: dict[str, Any], arguments: dict[str, Any], last: str | None) -> None:
    """As examples/train_full/qwen3_full_sft.yaml and data/README.md of the tool have it."""
    from llamafactory.train.tuner import run_exp

    roles = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}
    data = {
        "file_name": settings["rows"],
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {**roles, "assistant_tag": "assistant"},
    }
    place = Path(settings["watch"])
    (place / "dataset_info.json").write_text(json.dumps({"rows": data}))
    run_exp(
        {
            **arguments,
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "model_name_or_path": settings["model"],
            "dataset_dir": str(place),
            "dataset": "rows",
            "template": "qwen3",
            "cutoff_len": MAX_LENGTH,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.1,
            "report_to": "none",
            "resume_from_checkpoint": last,
        }
    )


def ms_swift(settings: dict[str, Any], arguments: dict[str, Any], last: str | None) -> None:
    """As examples/train/full/train.sh and the command line parameters' page have it."""
    from swift.pipelines import sft_main

    given = {
        **{name: value for name, value in arguments.items() if name != "report_to"},
        "model": settings["model"],
        "tuner_type": "full",
        "dataset": settings["rows"],
        "torch_dtype": "float32",
        "max_length": MAX_LENGTH,
        "warmup_ratio": 0.05,
        "report_to": "none",
        "add_version": False,  # else each start has a directory of its own
        **({"resume_from_checkpoint": last} if last else {}),
    }
    sft_main([part for name, value in given.items() for part in (f"--{name}", str(value).lower()
              if isinstance(value, bool) else str(value))])  # fmt: skip


def axolotl(settings: dict[str, Any], arguments: dict[str, Any], last: str | None) -> None:
    """As docs/getting-started.qmd and docs/config-reference.qmd have it."""
    from axolotl.cli.train import do_cli

    place = Path(settings["watch"])
    config = {
        "base_model": settings["model"],
        "datasets": [{"path": settings["rows"], "ds_type": "json", "type": "chat_template"}],
        "dataset_prepared_path": str(place / "prepared"),
        "val_set_size": 0,
        "output_dir": arguments["output_dir"],
        "sequence_len": MAX_LENGTH,
        "micro_batch_size": arguments["per_device_train_batch_size"],
        "gradient_accumulation_steps": arguments["gradient_accumulation_steps"],
        "num_epochs": arguments["num_train_epochs"],
        "optimizer": "adamw_torch",
        "lr_scheduler": "cosine",
        "learning_rate": arguments["learning_rate"],
        "save_steps": arguments["save_steps"],
        "auto_resume_from_checkpoints": True,
        "seed": 42,  # without one, two starts have different row orders
        "bf16": False,
        "device": "cpu",
    }
    (place / "config.yaml").write_text(json.dumps(config))  # YAML contains JSON
    do_cli(config=str(place / "config.yaml"))


TOOLS: dict[str, Callable[[dict[str, Any], dict[str, Any], str | None], None]] = {
    "llamafactory": llama_factory,
    "ms-swift": ms_swift,
    "axolotl": axolotl,
}


if __name__ == "__main__":
    main()
