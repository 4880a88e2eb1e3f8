"""Shows what a spec would train on, for `jobspec preview`.

    python -m worker.preview.preview_command SPEC.json --root ROOT [--row N [--source NAME]]

It prints one row as it is trained, and without `--row` also an overview of all rows, as JSON. It
exits with code 3 and prints `{"error": {...}}` if the row can't be shown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from jobspec.records.answers import Preview
from jobspec.spec import parsing
from jobspec.storage.layout import RootPaths
from worker.answer import answer
from worker.preview import overview
from worker.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.preview.preview_command")
    parser.add_argument("spec", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--row", type=int, help="counted from 1")
    parser.add_argument("--source", help="name of the row's source in a mixture")
    asked = parser.parse_args()
    sys.exit(answer(lambda: _preview(asked)))


def _preview(asked: argparse.Namespace) -> Preview:
    spec, root = parsing.load(asked.spec), RootPaths(asked.root.absolute())
    if asked.row is not None:
        return overview.show_row(spec, root, asked.row, asked.source)
    found, first = overview.overview(spec, root)
    return msgspec.structs.replace(first, overview=found)


if __name__ == "__main__":
    run_program(main)
