"""Draws samples of an evaluation again for `jobspec audit eval`.

    python -m worker.audit.eval_command ATTEMPT_DIR --percent P --seed N

It prints an `AuditAnswer`, and exits with 3 if the evaluation can't be audited.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobspec.records.audit import AuditAnswer
from jobspec.storage.layout import AttemptPaths, JobPaths, RootPaths
from worker.answer import answer
from worker.imports.quiet import hush_torchao, import_transformers, set_library_variables
from worker.inference import children
from worker.lm_eval_tasks import nltk_data
from worker.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.audit.eval_command")
    parser.add_argument("attempt", type=Path)
    parser.add_argument("--percent", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    set_library_variables()
    hush_torchao()
    import_transformers()
    try:
        code = answer(lambda: _audit(asked))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _audit(asked: argparse.Namespace) -> AuditAnswer:
    from worker.audit import redraw

    attempt = AttemptPaths(asked.attempt.absolute())
    root = RootPaths(JobPaths(attempt.job_dir).dir.parent.parent)
    with nltk_data.readable(root.nltk_data):
        return AuditAnswer(redraw=redraw.audit(attempt.dir, percent=asked.percent, seed=asked.seed))


if __name__ == "__mp_main__":  # a process that vLLM has spawned imports this module first
    children.die_with_spawner()
if __name__ == "__main__":
    run_program(main)
