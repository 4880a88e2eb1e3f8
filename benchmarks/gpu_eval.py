"""Our vLLM adapter against raw vLLM: `python -m benchmarks.gpu_eval --model DIR --questions FILE`.

The same requests, seeds and sampling, on one loaded model: `LLM.generate` with the whole list, and
the adapter fed chunk by chunk as an evaluation feeds it. Runs take turns; medians of generated
tokens a second are printed. At least 0.95 × is wanted. Needs vLLM and a GPU; not run anywhere yet.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from jobspec.benchmarks import question_file, registry
from worker.evaluation.generation import plan_chunks
from worker.evaluation.lm_eval_model import load_tokenizer
from worker.inference.engine import Weights
from worker.inference.requests import SampleChunk, Sampling
from worker.inference.vllm_engine import VllmEngine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a model directory with a chat template")
    parser.add_argument("--questions", type=Path, required=True, help="a file of the AIME form")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096, help="max_gen_toks")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model, template=None, trust_remote_code=False)
    prompts = _prompts(tokenizer, args.questions)
    context = max(map(len, prompts.values())) + args.tokens
    engine = VllmEngine.load(Weights(directory=args.model), tokenizer, context=context)
    rates: dict[str, list[float]] = {"raw": [], "ours": []}
    for run in range(args.runs + 1):
        sampling = Sampling(max_gen_toks=args.tokens, temperature=0.6, top_p=0.95)
        chunks = plan_chunks(f"run {run}", "bench", prompts, args.k, sampling, rows=8)
        found = {"raw": _raw(engine, chunks), "ours": _ours(engine, chunks)}
        if run > 0:  # the first one warms up
            for name, rate in found.items():
                rates[name].append(rate)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:5} {rate:9.0f} tokens/s")
    print(f"ours / raw: {medians['ours'] / medians['raw']:.3f} (at least 0.95 wanted)")


def _prompts(tokenizer: Any, path: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    benchmark = registry.get("aime24")
    assert benchmark is not None
    for question in question_file.read(benchmark, path).questions:
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
