"""The prepare phase: renders, tokenizes and verifies the rows of a spec's data file.

    python -m worker.data.prepare ATTEMPT_DIR

Jobs with the same data, model and settings share the prepared rows (see `pipeline`).
"""

from __future__ import annotations

from jobspec.records import phases
from worker import benchmark_download
from worker.data.pipeline import prepare
from worker.phase import Phase, run
from worker.program import run_program


def main() -> None:
    run(phases.PREPARE, body)


def body(phase: Phase) -> int:
    report = prepare(phase.spec, phase.root, phase.progress)
    if phase.spec.eval is not None:
        benchmark_download.refuse_missing(phase.spec.eval, phase.root.cache / "benchmarks")
    phase.finish(report)
    return 0


if __name__ == "__main__":
    run_program(main)
