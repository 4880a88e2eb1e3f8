"""Evaluation against stock lm-eval: `python -m benchmarks.evaluate [--runs 5] [--tokens 256]`.

The same model with 300,000 random weights, the same 60 questions of AIME's form × 8 samples:
through lm-eval's own command line with `repeats`, and through the eval phase with one and with two
engines. A device is a core here: stock and one engine get one core, two engines get two. Runs take
turns; medians are printed. Then 500 answers of MATH-500's forms and AIME's × 32 are scored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import questions
from benchmarks.text import TextSource
from jobspec.benchmarks import registry
from jobspec.records.evaluation import AskedQuestion, Generation, QuestionScore, SamplingPlan
from jobspec.spec.schema import EvalSpec
from tests.support.evaluations import environment, make_attempt
from worker.evaluation import scoring
from worker.grading.math_grader import MathGrader

K = 8
BATCH = 64
VOCABULARY = 512
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
STOCK = """\
task: aime60
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: generate_until
doc_to_text: >-
  {{{{problem}}}} Please reason step by step, and put your final answer within a box.
doc_to_target: "{{{{answer}}}}"
repeats: {k}
generation_kwargs: {{until: [], do_sample: true}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


class Run(NamedTuple):
    """One run: wall and CPU seconds, tokens drawn; seconds of generating alone where known."""

    wall_s: float
    cpu_s: float
    tokens: int
    generate_s: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256, help="max_gen_toks")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = make_model(place / "model")
        (place / "bench").mkdir()
        questions.write(place / "bench" / "aime60.jsonl", questions.aime())
        _generation(place, model, args.runs, args.tokens)
    print(measure_scoring())


def make_model(directory: Path) -> Path:
    """A tiny Llama whose tokens are whole words, so that a text's tokens can be counted again.

    The token that ends an answer is none of the model's, so every answer is as long as allowed.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", *TextSource(random.Random(1)).frequent(VOCABULARY - 2), "</s>"]
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=VOCABULARY,
        pad_token_id=0,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def _generation(place: Path, model: Path, count: int, tokens: int) -> None:
    taken: dict[str, list[Run]] = {"stock": [], "1 engine": [], "2 engines": []}
    for number in range(count):
        taken["stock"].append(_stock(place, model, tokens, number))
        taken["1 engine"].append(_ours(place, model, tokens, f"{number}-1", engines=1))
        taken["2 engines"].append(_ours(place, model, tokens, f"{number}-2", engines=2))
    print(f"{60 * K} samples of at most {tokens} tokens, {count} runs in turn, medians")
    print(f"{'':10} {'wall s':>8} {'CPU s':>8} {'tokens':>8} {'tokens/s':>9} {'generating':>11}")
    medians = {name: _median(runs) for name, runs in taken.items()}
    for name, run in medians.items():
        rate = f"{run.tokens / run.generate_s:11.0f}" if run.generate_s else f"{'':11}"
        print(f"{name:10} {run.wall_s:8.1f} {run.cpu_s:8.1f} {run.tokens:8}"
              f" {run.tokens / run.wall_s:9.0f} {rate}")  # fmt: skip
    one, two, stock = (medians[name] for name in ("1 engine", "2 engines", "stock"))
    assert one.generate_s is not None
    assert two.generate_s is not None
    faster = one.tokens / one.wall_s / (stock.tokens / stock.wall_s)
    print(f"1 engine / stock, tokens a wall second: {faster:.2f} (at least 0.98 wanted)")
    scaled = two.tokens / two.generate_s / (one.tokens / one.generate_s)
    print(f"2 engines / 1, tokens a second of generating: {scaled:.2f} (at least 1.7 wanted)")


def _stock(place: Path, model: Path, tokens: int, number: int) -> Run:
    tasks, out = place / "tasks", place / f"stock-{number}"
    tasks.mkdir(exist_ok=True)
    file = place / "bench" / "aime60.jsonl"
    (tasks / "aime60.yaml").write_text(STOCK.format(file=file, k=K))
    wall_s, cpu_s = _timed(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args"),
            f"pretrained={model},dtype=float32,max_length=4096",
            *("--tasks", "aime60", "--include_path", str(tasks), "--apply_chat_template"),
            "--gen_kwargs",
            f"do_sample=True,temperature=0.6,top_p=0.95,top_k=0,max_gen_toks={tokens}",
            *("--batch_size", str(BATCH), "--device", "cpu"),
            *("--log_samples", "--output_path", str(out)),
        ],
        environment(HF_HOME=str(place / "hf")),
        cores=1,
    )
    return Run(wall_s, cpu_s, _stock_tokens(model, out))


def _stock_tokens(model: Path, out: Path) -> int:
    """Tokens of what stock kept: its text, tokenized again."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    (file,) = out.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    texts = [text for row in rows for responses in row["resps"] for text in responses]
    assert len(texts) == 60 * K
    return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)


def _ours(place: Path, model: Path, tokens: int, name: str, *, engines: int) -> Run:
    settings = EvalSpec(
        benchmarks=("aime60",), benchmark_dir=str(place / "bench"), avg_k=K, max_gen_toks=tokens
    )
    attempt = make_attempt(place / f"ours-{name}", model, settings)
    wall_s, cpu_s = _timed(
        [sys.executable, "-m", "worker.evaluation.evaluate", str(attempt.dir)],
        environment(JOBSPEC_EVAL_ENGINES=str(engines)),
        cores=engines,
    )
    timing = json.loads(attempt.done("eval").read_text())["timing"]
    return Run(wall_s, cpu_s, timing["tokens"], timing["generate_s"])


def _timed(command: list[str], env: dict[str, str], *, cores: int) -> tuple[float, float]:
    """Wall and CPU seconds of a command on this number of cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    env["OMP_NUM_THREADS"] = str(cores)
    before, started = os.times(), time.monotonic()
    subprocess.run(
        command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )  # fmt: skip
    wall_s, after = time.monotonic() - started, os.times()
    used = after.children_user + after.children_system
    return wall_s, used - before.children_user - before.children_system


def measure_scoring() -> str:
    """Score recorded answers, all of them right. Returns what it took and how many were right."""
    math = [(_asked(row), [_recorded(row["solution"], 0)]) for row in questions.math500()]
    aime = [
        (_asked(row), [_recorded(f"So $\\boxed{{{row['answer']}}}$.", i) for i in range(32)])
        for row in questions.aime()
    ]
    started = time.monotonic()
    with MathGrader() as grader:
        right = _score("math500", 1, math, grader)
        _score("aime24", 32, aime, grader)
    seconds = time.monotonic() - started
    correct = sum(question.correct for question in right)
    return (
        f"scoring MATH-500 × 1 and AIME × 32: {seconds:.1f} s ({correct} of {len(math)} right; "
        "at most 60 s wanted)"
    )


def _score(
    name: str,
    k: int,
    asked: list[tuple[AskedQuestion, list[Generation]]],
    grader: MathGrader,
) -> list[QuestionScore]:
    benchmark = registry.get(name)
    assert benchmark is not None
    plan = SamplingPlan(key="", benchmark=name, k=k, chunks=0, think_end_token="</think>")
    return scoring.score(benchmark, plan, asked, grader)


def _asked(row: dict[str, str]) -> AskedQuestion:
    return AskedQuestion(id=row["id"], answer=row["answer"], solution=row.get("solution"))


def _recorded(text: str, sample: int) -> Generation:
    return Generation(question="", sample=sample, seed=0, text=text, tokens=1, finish="stop")


def _median(runs: list[Run]) -> Run:
    columns = zip(*(run[:3] for run in runs), strict=True)
    wall_s, cpu_s, tokens = (statistics.median(column) for column in columns)
    known = [run.generate_s for run in runs if run.generate_s is not None]
    return Run(wall_s, cpu_s, int(tokens), statistics.median(known) if known else None)


if __name__ == "__main__":
    main()
