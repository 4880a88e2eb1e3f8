"""Draw samples with the engine of `auto`: `python -m benchmarks.gpu.generation DIR OUT`."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.gpu.inputs import REAL, TOY
from jobspec.spec.schema import ModelSpec
from worker.evaluation.lm_eval_model import load_tokenizer
from worker.inference.engine import choose, resolve_backend
from worker.inference.requests import Sampling
from worker.samples.generation import plan_chunks


def main(directory: Path, out: Path) -> None:
    gpus = min(1, torch.cuda.device_count())
    size = REAL if gpus else TOY
    model = directory / "model"
    spec = ModelSpec(name=str(model), dtype=size.dtype)  # pyright: ignore[reportArgumentType]
    choice = choose("auto", spec, model, gpus=gpus)
    context = size.prompt_tokens + size.generated_tokens
    choice = msgspec.structs.replace(choice, context=context)
    tokenizer = load_tokenizer(str(model), template=None, trust_remote_code=False)
    began = time.monotonic()
    engine = choice.load(tokenizer)
    load_s = time.monotonic() - began
    _draw(engine, choice, size, tokens=2)  # warms up
    began, began_at = time.monotonic(), time.time()
    tokens = _draw(engine, choice, size, tokens=size.generated_tokens)
    seconds = time.monotonic() - began
    result = {
        "engine": choice.name,
        "method": engine.method,
        "why": resolve_backend("auto", gpus)[1],
        "dtype": choice.weights.dtype,
        "samples": size.prompts,
        "tokens": tokens,
        "seconds": seconds,
        "load_s": load_s,
        "tokens_per_second": tokens / seconds,
        "window": [began_at, began_at + seconds],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if gpus else None,
    }
    out.write_text(json.dumps(result))
    engine.close()


def _draw(engine: Any, choice: Any, size: Any, *, tokens: int) -> int:
    """One sample of each prompt. Returns the tokens that were drawn."""
    rng = random.Random(2)
    prompts = {
        f"q{number}": tuple(rng.randrange(2, 250) for _ in range(size.prompt_tokens))
        for number in range(size.prompts)
    }
    sampling = Sampling(max_gen_toks=tokens, temperature=0.6, top_p=0.95)
    rows = choice.rows(sampling, size.prompt_tokens)
    chunks = plan_chunks("gpu", "bench", prompts, 1, sampling, rows=rows)
    return sum(row.tokens for _, drawn in engine.run(iter(chunks)) for row in drawn)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
