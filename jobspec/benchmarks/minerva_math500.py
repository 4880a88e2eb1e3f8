"""MATH-500: 500 competition problems, answers judged by math_verify as lm-eval does.

Source: Lightman et al. 2023, arXiv:2305.20050 (the split); Hendrycks et al. 2021, arXiv:2103.03874.
"""

from __future__ import annotations

from jobspec.benchmarks.benchmark import Benchmark, HubDataset, StockProtocol

BENCHMARKS = (
    Benchmark(
        name="minerva_math500",
        title="MATH-500",
        aliases=("math500", "math-500", "math_500"),
        files=("math500.jsonl",),
        url="https://huggingface.co/datasets/HuggingFaceH4/MATH-500",
        licence="MIT",
        dataset=HubDataset(
            path="HuggingFaceH4/MATH-500",
            split="test",
            columns={
                "id": "unique_id",
                "problem": "problem",
                "answer": "answer",
                "solution": "solution",
            },
        ),
        question_count=500,
        samples=1,
        stock=StockProtocol(
            prompt="Problem:\n{problem}\n\nSolution:",
            stops=("Problem:",),
            shots=4,
            examples="lm_eval.tasks.minerva_math.utils:list_fewshot_samples",
        ),
        metric="math_verify",
        grader="math_verify",
    ),
)
