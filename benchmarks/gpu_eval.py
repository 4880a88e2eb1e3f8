"""Our vLLM adapter against vLLM's own `LLM.generate`, and what scoring a model costs.

    python -m benchmarks.gpu_eval --model DIR [--questions FILE] [--kv-cache-dtype fp8]
    python -m benchmarks.gpu_eval --toy      a tiny model and few tokens, on a CPU

The same requests, seeds and sampling, on one loaded model: `LLM.generate` with the whole list, and
the adapter fed chunk by chunk as an evaluation feeds it. Runs take turns; medians of generated
tokens a second are printed. At least 0.95 × is wanted. The last line says how many GPU-hours AIME
× 32 and MATH-500 take at that speed, with answers of a given mean length. Needs vLLM.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import questions
from jobspec.benchmarks import question_file, registry
from tests.support.models import vllm_model
from tests.support.vllm import CPU_SETTINGS
from worker.evaluation.lm_eval_model import load_tokenizer
from worker.inference.engine import Weights
from worker.inference.requests import SampleChunk, Sampling
from worker.inference.vllm_engine import VllmEngine
from worker.samples.generation import plan_chunks

AIME_SAMPLES, MATH_SAMPLES = 32 * questions.AIME, questions.MATH
# The mean lengths of answers that models of this size give with reasoning: an assumption.
AIME_TOKENS, MATH_TOKENS = 16_000, 5_000
TOY = {"k": 2, "tokens": 16, "runs": 1}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a model directory with a chat template")
    parser.add_argument("--questions", type=Path, help="a file of the AIME form [default: made up]")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096, help="max_gen_toks")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--no-prefix-caching", action="store_true")
    parser.add_argument("--aime-tokens", type=int, default=AIME_TOKENS, help="of a mean answer")
    parser.add_argument("--math-tokens", type=int, default=MATH_TOKENS, help="of a mean answer")
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-eval-") as place:
        if args.toy:
            vars(args).update(TOY)
            os.environ.update(CPU_SETTINGS)
            args.model = args.model or str(vllm_model(Path(place)))
        if args.model is None:
            parser.error("name a --model, or use --toy")
        print("\n".join(measure(args)))


def measure(args: argparse.Namespace) -> list[str]:
    """Load the model, run both ways in turn, and say what was measured."""
    import torch

    tokenizer = load_tokenizer(args.model, template=None, trust_remote_code=False)
    prompts = _prompts(tokenizer, args)
    context = max(map(len, prompts.values())) + args.tokens
    weights = Weights(
        directory=args.model,
        dtype="bfloat16" if torch.cuda.is_available() else "float32",
        kv_cache_dtype=args.kv_cache_dtype,
        enable_prefix_caching=not args.no_prefix_caching,
    )
    engine = VllmEngine.load(weights, tokenizer, context=context)
    try:
        rates = _compare(engine, prompts, args)
    finally:
        engine.close()
    lines = [f"{name:5} {rate:9.0f} tokens/s" for name, rate in rates.items()]
    lines.append(f"ours / raw: {rates['ours'] / rates['raw']:.3f} (at least 0.95 wanted)")
    return [*lines, _cost_line(rates["ours"], args)]


def gpu_hours(
    tokens_per_second: float, *, aime_tokens: float, math_tokens: float, gpus: int = 1
) -> float:
    """What AIME 2024 and 2025 × 32 and MATH-500 × 1 take.

    Args:
        tokens_per_second: that all `gpus` together generate.
        aime_tokens: of a mean answer; `math_tokens` too.
    """
    tokens = AIME_SAMPLES * aime_tokens + MATH_SAMPLES * math_tokens
    return gpus * tokens / tokens_per_second / 3600


def _cost_line(rate: float, args: argparse.Namespace) -> str:
    import torch

    gpus = torch.cuda.device_count()
    lengths = {"aime_tokens": args.aime_tokens, "math_tokens": args.math_tokens}
    hours = gpu_hours(rate, gpus=max(1, gpus), **lengths)
    return (
        f"AIME × 32 and MATH-500: {hours:,.2f} {'GPU' if gpus else 'CPU'}-hours, if answers have "
        f"{args.aime_tokens:,} and {args.math_tokens:,} tokens"
    )


def _compare(
    engine: VllmEngine, prompts: dict[str, tuple[int, ...]], args: argparse.Namespace
) -> dict[str, float]:
    """The median rate of each way; the first run warms up."""
    rates: dict[str, list[float]] = {"raw": [], "ours": []}
    sampling = Sampling(max_gen_toks=args.tokens, temperature=0.6, top_p=0.95)
    for run in range(args.runs + 1):
        chunks = plan_chunks(f"run {run}", "bench", prompts, args.k, sampling, rows=8)
        found = {"raw": _raw(engine, chunks), "ours": _ours(engine, chunks)}
        if run > 0:
            for name, rate in found.items():
                rates[name].append(rate)
    return {name: statistics.median(values) for name, values in rates.items()}


def _prompts(tokenizer: Any, args: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    benchmark = registry.get("aime24")
    assert benchmark is not None
    with tempfile.TemporaryDirectory() as place:
        file = args.questions or questions.write(Path(place) / "aime.jsonl", questions.aime())
        asked = question_file.read(benchmark, file).questions
    found = {}
    for question in asked[:2] if args.toy else asked:
        turn = [{"role": "user", "content": benchmark.ask(question)}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        found[question.id] = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return found


def _raw(engine: VllmEngine, chunks: list[SampleChunk]) -> float:
    """vLLM's own front door, given everything at once."""
    module = engine._module
    requests = [(request, chunk.sampling) for chunk in chunks for request in chunk.requests]
    prompts = [module.TokensPrompt(prompt_token_ids=list(r.prompt)) for r, _ in requests]
    params = [module.SamplingParams(**engine._fields(r, sampling)) for r, sampling in requests]
    _forget_prompts(engine)
    started = time.monotonic()
    outputs = engine._llm.generate(prompts, params, use_tqdm=False)
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return tokens / (time.monotonic() - started)


def _ours(engine: VllmEngine, chunks: list[SampleChunk]) -> float:
    _forget_prompts(engine)
    started = time.monotonic()
    tokens = sum(row.tokens for _, rows in engine.run(iter(chunks)) for row in rows)
    return tokens / (time.monotonic() - started)


def _forget_prompts(engine: VllmEngine) -> None:
    """Empty the prefix cache of the prompts of the run before."""
    engine._llm.reset_prefix_cache()


if __name__ == "__main__":
    main()
