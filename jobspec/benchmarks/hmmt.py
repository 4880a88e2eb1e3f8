"""HMMT and other contests whose answers are expressions, judged by math_verify: users' own files.

A file `hmmt_<something>.jsonl` in the benchmark directory has the fields `id`, `problem` and
`answer`, the answer in LaTeX. The questions are © HMMT.
"""

from __future__ import annotations

from jobspec.benchmarks.benchmark import Benchmark

BENCHMARKS = (
    Benchmark(
        name="hmmt*",
        title="your own, like HMMT",
        url="https://www.hmmt.org/www/archive/problems",
        licence="yours",
        files=(),
        grader="math_verify",
    ),
)
