"""Checks the lm-eval tasks of a spec outside of a job, for `validate` and `enqueue`.

    python -m worker.lm_eval_tasks.task_check SPEC.json --root ROOT

It loads every task as the eval phase will: its members, its packages, its data as far as it is on
this machine, its generation settings, and the sandbox for generated code. It prints a
`TasksAnswer`, or exits with code 3 and prints `{"error": {...}}` if a task can't be run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from jobspec.benchmarks import question_file, registry
from jobspec.records.answers import TaskFacts, TasksAnswer
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths
from worker.answer import answer
from worker.lm_eval_tasks import nltk_data, sandbox
from worker.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.lm_eval_tasks.task_check")
    parser.add_argument("spec", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    asked = parser.parse_args()
    root = RootPaths(asked.root.absolute())
    # The libraries read these when they are imported. The eval phase gets the same, and no network.
    os.environ |= {
        "HF_DATASETS_CACHE": str(root.datasets),
        "HF_HUB_CACHE": str(root.hub),
        "LOCAL_RANK": "1",  # IFEval's modules download data in rank 0 when they are imported
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
    with nltk_data.readable(root.nltk_data):
        sys.exit(answer(lambda: check(parsing.load(asked.spec), root)))


def check(spec: JobSpec, root: RootPaths) -> TasksAnswer:
    """Load the lm-eval tasks of a spec.

    Raises:
        JobspecError: one of them can't be run here or as the spec asks.
    """
    assert spec.eval is not None, "a spec without `eval` has no tasks"
    where = question_file.directories(spec.eval.benchmark_dir, root.cache / "benchmarks")
    if any(question_file.runs_code(name, where) for name in spec.eval.benchmarks):
        sandbox.require()
    without_data = list[str]()
    for benchmark in filter(None, map(registry.get, spec.eval.benchmarks)):
        if benchmark.checks_instructions:
            nltk_data.require_packages(benchmark.name)
            without_data += [] if nltk_data.find() else [benchmark.name]
    if all(question_file.is_ours(name, where) for name in spec.eval.benchmarks):
        return TasksAnswer(tasks={}, without_data=tuple(without_data))
    from worker.imports.quiet import quiet
    from worker.lm_eval_tasks.task_loading import DataMissing, TaskLibrary, facts

    found: dict[str, tuple[TaskFacts, ...]] = {}
    with quiet():
        library = TaskLibrary(spec.eval, where)
        for name in spec.eval.benchmarks:
            if question_file.is_ours(name, where):
                continue
            try:
                found[name] = tuple(map(facts, library.load(name).tasks.values()))
            except DataMissing:
                with contextlib.suppress(DataMissing):
                    library.check_packages(name)
                without_data.append(name)
    return TasksAnswer(tasks=found, without_data=tuple(without_data))


if __name__ == "__main__":
    run_program(main)
