"""Prints how long modules and functions are, in lines: `python docs/sizes.py`."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def main() -> None:
    for name in ("jobspec", "worker"):
        texts = [path.read_text() for path in sorted((ROOT / name).rglob("*.py"))]
        modules = _describe([text.count("\n") for text in texts])
        functions = _describe([length for text in texts for length in _functions(text)])
        sys.stdout.write(f"{name}: modules {modules}; functions {functions}\n")


def _functions(text: str) -> list[int]:
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, _FUNCTION)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in found]


def _describe(lengths: list[int]) -> str:
    middle, high = statistics.median(lengths), statistics.quantiles(lengths, n=10)[-1]
    return f"{len(lengths)}, median {middle:.0f}, p90 {high:.0f}, max {max(lengths)}"


if __name__ == "__main__":
    main()
