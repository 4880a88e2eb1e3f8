"""The same rows trained by TRL alone: `python -m benchmarks.gpu.trl_route DIR KIND OUT`.

Tuned as TRL's documentation advises: fused AdamW, rows grouped by length, Liger's kernels where
they can run. Writes `OUT`: for each step its seconds, loss, tokens, and when it ended.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_from_disk
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.gpu.inputs import REAL, TOY

_ZERO = {
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 2},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}


class Clock(TrainerCallback):
    """Times each step, the device included."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        _synchronize()
        self.began = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        _synchronize()
        self.steps.append({"step_s": time.monotonic() - self.began, "ended_at": time.time()})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs and self.steps:
            self.steps[-1] |= {"loss": logs["loss"], "num_tokens": logs.get("num_tokens")}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(directory: Path, kind: str, out: Path) -> None:
    on_gpu = torch.cuda.is_available()
    size = REAL if on_gpu else TOY
    liger = on_gpu and importlib.util.find_spec("liger_kernel") is not None
    config = SFTConfig(
        output_dir=str(out.parent / "trl-out"),
        # On a CPU DeepSpeed would first compile a collective that one process does not need.
        deepspeed=_ZERO if on_gpu else None,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        learning_rate=1e-5,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=size.rows[kind],
        gradient_checkpointing=True,
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        use_liger_kernel=liger,
        max_length=size.max_length,
        model_init_kwargs={"dtype": size.dtype},
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        adam_beta2=0.95,
        weight_decay=0.1,
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=str(directory / "model"),
        args=config,
        train_dataset=load_from_disk(str(directory / kind)).remove_columns("row"),
        callbacks=[clock],
    )
    trainer.train()
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    out.write_text(json.dumps({"steps": clock.steps, "peak_gib": peak, "liger": liger}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
