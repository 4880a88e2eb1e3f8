"""Tokenizes and labels the rows of a bundle again: `python -m worker.data.prepare_again SPEC ROOT`.

Writes only below ROOT, which is temporary. The model's own code is never run.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import msgspec

from jobspec.records.answers import PreparedAgain
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import PreparedPaths, RootPaths, SplitPaths
from worker.answer import answer
from worker.data.pipeline import find_or_prepare
from worker.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.data.prepare_again")
    parser.add_argument("spec", type=Path)
    parser.add_argument("root", type=Path)
    asked = parser.parse_args()
    root = RootPaths(asked.root.absolute())
    sys.exit(answer(lambda: prepare_again(parsing.load(asked.spec), root)))


def prepare_again(spec: JobSpec, root: RootPaths) -> PreparedAgain:
    """Prepare a spec's rows without any benchmark and without a model's own code."""
    model = msgspec.structs.replace(spec.model, trust_remote_code=False)
    spec = msgspec.structs.replace(spec, model=model, eval=None)
    report, _ = find_or_prepare(spec, root)
    made = PreparedPaths(root.root / report.dir)
    return PreparedAgain(
        report=report, sha256={"train": _digest(made.train), "eval": _digest(made.eval)}
    )


def _digest(split: SplitPaths) -> str:
    with split.rows.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    run_program(main)
