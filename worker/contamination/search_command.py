"""Searches a spec's data for benchmark questions, where the rows themselves are not checked.

    python -m worker.contamination.search_command SPEC.json --root ROOT

It needs no tokenizer and no model, so it runs on a login node. It prints what it found as JSON, or
exits with code 3 and prints `{"error": {...}}` if the data is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobspec.errors import DataError
from jobspec.records.answers import Contamination
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths
from worker.answer import answer
from worker.contamination import overlap
from worker.program import run_program
from worker.rows.data_sources import DataSources, digest, sources_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.contamination.search_command")
    parser.add_argument("spec", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    asked = parser.parse_args()
    root = RootPaths(asked.root.absolute())
    sys.exit(answer(lambda: search(parsing.load(asked.spec), root)))


def search(spec: JobSpec, root: RootPaths) -> Contamination:
    """The benchmark questions in a spec's data. Raises DataError if it does not allow them."""
    data = spec.data
    if data is None:
        raise DataError("the spec trains nothing", place="$.data", hint="nothing to search")
    with DataSources(sources_of(data), root.prepared) as sources:
        found = overlap.report(spec.eval, sources, digest(data), root)
        overlap.refuse(found, data)
    return Contamination(overlap=found)


if __name__ == "__main__":
    run_program(main)
