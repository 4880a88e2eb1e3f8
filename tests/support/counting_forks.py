"""Ranks as rank_forks.py forks them, which count what a training step does while they do it.

What was counted lies beside the attempt's other files, `census.<rank>.json`: for each part of each
step the reads for which a host would wait for its device, the collectives, and the largest tensor
as wide as the vocabulary; how the weights' file was held once the model was loaded; and what is
said of an engine that was not asked for. `reload` is a phase of its own: the trained model, loaded
as anybody would. `make` writes the models to train.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
import trl
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

import worker.demo.tiny_model
import worker.training.train
from jobspec.errors import JobspecError
from jobspec.spec.schema import JobSpec
from tests.support import rank_forks
from tests.support.models import byte_tokenizer
from worker.training import training_run
from worker.training.callbacks import StepReporter
from worker.training.trainer import RowTrainer
from worker.training.training_run import TrainingRun

# Names of torch's functions for whose answer the host waits until the device has come so far.
WAITS = frozenset(
    ("item", "tolist", "cpu", "numpy", "nonzero", "is_nonzero", "equal", "unique", "masked_select")
)
CONVERSIONS = frozenset(("__bool__", "__float__", "__int__", "__index__", "__contains__"))
LIBRARIES = ("worker", "deepspeed", "trl", "transformers", "accelerate", "peft")


class Ledger:
    """What was counted; `part` is where in a step we are."""

    def __init__(self) -> None:
        self.part = "before"
        self.steps: list[dict[str, Any]] = []
        self.load: dict[str, Any] = {}
        self.refused: dict[str, str] = {}

    def begin(self, micros: list[dict[str, Any]]) -> None:
        parts = {
            part: {"waits": Counter(), "collectives": Counter()}
            for part in ("micro-batches", "optimizer", "report")
        }
        sizes = [[line["input_ids"].numel(), line["targets"].numel()] for line in micros]
        self.steps.append({**parts, "micros": sizes, "widest": 0})
        self.part = "micro-batches"

    def count(self, what: str, name: str) -> None:
        if self.steps and self.part in self.steps[-1]:
            self.steps[-1][self.part][what][f"{name} by {asker()}"] += 1


def asker() -> str:
    """The library whose code called torch: of the frames the innermost that is one's."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        found = [name for name in LIBRARIES if name in parts]
        if found:
            return found[-1]
        frame = frame.f_back
    return "nobody"


class Calls(TorchFunctionMode):
    """Counts what is asked of tensors by name."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        masked = name in ("__getitem__", "__setitem__") and any(
            isinstance(each, torch.Tensor) and each.dtype is torch.bool
            for each in tree_leaves(args[1])
        )
        if name in WAITS or name in CONVERSIONS or masked:
            self.ledger.count("waits", name)
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    """Counts collectives, and how large tensors as wide as the vocabulary become."""

    def __init__(self, ledger: Ledger, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.ledger, self.vocabulary, self.hidden = ledger, vocabulary, hidden

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.ledger.count("collectives", func._schema.name)
        made = func(*args, **(kwargs or {}))
        if self.ledger.part == "micro-batches":
            wide = [
                each.numel() // self.vocabulary
                for each in tree_leaves(made)
                if isinstance(each, torch.Tensor) and each.shape[-1:] == (self.vocabulary,)
            ]
            # Not the head's own weights, transposed.
            tokens = max((rows for rows in wide if rows not in (1, self.hidden)), default=0)
            self.ledger.steps[-1]["widest"] = max(self.ledger.steps[-1]["widest"], tokens)
        return made


def install(ledger: Ledger) -> None:
    """Let this rank's training be counted."""
    train, step, report = RowTrainer.train, RowTrainer.training_step, StepReporter.on_step_end
    load, check = training_run.load_model, TrainingRun.check_engine

    def counted_train(self: RowTrainer, *args: Any, **kwargs: Any) -> Any:
        config = self.model.config
        with Calls(ledger), Operators(ledger, config.vocab_size, config.hidden_size):
            return train(self, *args, **kwargs)

    def counted_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        ledger.begin(inputs["micros"])
        try:
            return step(self, model, inputs, *args, **kwargs)
        finally:
            ledger.part = "optimizer"

    def counted_report(self: Any, *args: Any, **kwargs: Any) -> Any:
        ledger.part = "report"
        try:
            return report(self, *args, **kwargs)
        finally:
            ledger.part = "after"

    def counted_load(spec: JobSpec, eos_token_ids: list[int]) -> Any:
        ledger.load, model = weighed(lambda: load(spec, eos_token_ids), Path(spec.model.name))
        return model

    def tried_check(self: Any) -> None:
        check(self)
        ledger.refused = refusals(self, check)

    RowTrainer.train, RowTrainer.training_step = counted_train, counted_step
    StepReporter.on_step_end = counted_report
    training_run.load_model, TrainingRun.check_engine = counted_load, tried_check


def refusals(job: Any, check: Callable[[Any], None]) -> dict[str, str]:
    """What is said of the engine that trains under a spec of another stage, and of no engine."""
    asked, engine = job.train, job.trainer.model_wrapped
    other = msgspec.structs.replace(asked, zero_stage=5 - asked.zero_stage)  # 3 for 2, 2 for 3
    said: dict[str, str] = {}
    for name, spec, trains in (("stage", other, engine), ("engine", asked, engine.module)):
        job.train, job.trainer.model_wrapped = spec, trains
        try:
            check(job)
        except JobspecError as error:
            said[name] = str(error)
        finally:
            job.train, job.trainer.model_wrapped = asked, engine
    return said


def weighed(load: Callable[[], Any], directory: Path) -> tuple[dict[str, Any], Any]:
    """What loading a model took of memory no other process shares, and read through calls."""
    file = directory / "model.safetensors"
    before, read, done = anonymous(), calls_read(), threading.Event()
    most = [before]

    def watch() -> None:
        while not done.wait(0.0005):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        model = load()
    finally:
        done.set()
        watcher.join()
    facts = {
        "size": file.stat().st_size,
        "anonymous_peak": most[0] - before,
        "anonymous": anonymous() - before,
        "read": calls_read() - read,
        "mapped": mapping(file),
    }
    return facts, model


def anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    return 1024 * int(fields(Path("/proc/self/status"))["RssAnon"].split()[0])


def calls_read() -> int:
    """Bytes this process has read with read(2)."""
    return int(fields(Path("/proc/self/io"))["rchar"])


def fields(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def mapping(file: Path) -> dict[str, int]:
    """The kernel's account of a file's mappings in this process, in bytes: proc_pid_smaps(5)."""
    found: Counter[str] = Counter()
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in line.split()[0] and not name.istitle():
            inside = line.endswith(str(file))
        elif inside and value.endswith(" kB"):
            found[name] += 1024 * int(value.split()[0])
    return dict(found)


def train() -> None:
    """The train phase, counted."""
    ledger = Ledger()
    install(ledger)
    try:
        worker.training.train.main()
    finally:
        facts = {"steps": ledger.steps, "load": ledger.load, "refused": ledger.refused}
        (Path(sys.argv[1]) / f"census.{os.environ['RANK']}.json").write_text(json.dumps(facts))


SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}
FAMILIES = {
    "llama3": (LlamaConfig, "<|begin_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|>"),
    "gemma": (GemmaConfig, "<bos> <end_of_turn> <start_of_turn>"),
}


def make() -> None:
    """A wide model of the demo's family, and small ones of others with their real templates."""
    place = Path(sys.argv[1])
    worker.demo.tiny_model.make_model(place / "wide", hidden=512)
    templates = Path(trl.__file__).parent / "chat_templates"  # the families' own
    for name, (config, special) in FAMILIES.items():
        bos, eos, *_ = special.split()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=byte_tokenizer(special.split()), bos_token=bos, eos_token=eos
        )
        tokenizer.chat_template = (templates / f"{name}.jinja").read_text()
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        made = config(**SHAPE, **ids, pad_token_id=None, vocab_size=len(tokenizer))
        AutoModelForCausalLM.from_config(made).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)


def reload() -> None:
    """Load what was trained, and write a turn with it, greedily."""
    place = Path(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(place / "final_model")
    tokenizer = AutoTokenizer.from_pretrained(place / "final_model")
    asked = [{"role": "user", "content": "Which place in the alphabet has the letter AAAAAA?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    written = model.generate(**ids, do_sample=False, max_new_tokens=8)
    facts = {
        "model_type": model.config.model_type,
        "eos_token_id": model.generation_config.eos_token_id,
        "prompt": prompt,
        "written": written[0, ids["input_ids"].shape[1] :].tolist(),
    }
    (place / "reload.json").write_text(json.dumps(facts))


def reported(phase: Callable[[], None]) -> Callable[[], None]:
    """A phase that exits as those of a rank do, its errors in its log."""

    def run() -> None:
        try:
            phase()
        except Exception:
            traceback.print_exc()
            raise
        sys.exit(0)

    return run


if __name__ == "__main__":
    # Freed memory goes back at once, so that what is held can be told (M_MMAP_THRESHOLD).
    ctypes.CDLL(None).mallopt(-3, 1 << 16)
    rank_forks.PHASES |= {"make": reported(make), "train": train, "reload": reported(reload)}
    rank_forks.main()
