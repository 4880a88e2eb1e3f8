"""What a user writes to train and to resume, by the documentation of TRL and Transformers.

    python -m benchmarks.resume_script SETTINGS.json

`SETTINGS.json`: `tool` (`trl` or `transformers`), `model`, `rows`, `arguments`, `lora`, `watch`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from transformers.data.data_collator import DataCollatorForLanguageModeling
from transformers.trainer_utils import get_last_checkpoint

from benchmarks.resume_watch import Watch


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    Watch(Path(settings["watch"])).install()
    rows = load_dataset("json", data_files=settings["rows"], split="train")
    trainer = {"trl": _trl, "transformers": _transformers}[settings["tool"]](settings, rows)
    output = Path(settings["arguments"]["output_dir"])
    # https://huggingface.co/docs/transformers/main/trainer: the last checkpoint, if there is one.
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output) if output.is_dir() else None)
    trainer.save_model()


def _trl(settings: dict[str, Any], rows: Any) -> Any:
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    lora = LoraConfig(**settings["lora"]) if settings["lora"] else None
    arguments = SFTConfig(**settings["arguments"])
    return SFTTrainer(settings["model"], args=arguments, train_dataset=rows, peft_config=lora)


def _transformers(settings: dict[str, Any], rows: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    arguments = TrainingArguments(**settings["arguments"])

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        return tokenizer(tokenizer.apply_chat_template(row["messages"], tokenize=False))

    return Trainer(
        model=AutoModelForCausalLM.from_pretrained(settings["model"]),
        args=arguments,
        train_dataset=rows.map(tokenize, remove_columns=rows.column_names),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


if __name__ == "__main__":
    main()
