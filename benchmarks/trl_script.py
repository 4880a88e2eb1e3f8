"""What a user writes with TRL: the baseline of benchmarks/train.py, run as a process of its own.

    python benchmarks/trl_script.py SETTINGS.json

`SETTINGS.json`: `model`, `rows` (a directory of JSONL), and `arguments`, SFTConfig's.
"""

import json
import sys
from pathlib import Path

from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

settings = json.loads(Path(sys.argv[1]).read_text())
trainer = SFTTrainer(
    model=settings["model"],
    args=SFTConfig(**settings["arguments"]),
    train_dataset=load_dataset(settings["rows"], split="train"),
)
trainer.train()
trainer.save_model()
