"""The names of lm-eval's tasks, read without importing lm-eval (which would import torch).

`python -m jobspec.benchmarks.lm_eval_names` prints the names as JSON. A login node runs it in the
image.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

# The name in a task file of lm-eval. A list (the members of a group) is not a name.
_NAME = re.compile(
    rb"^[\"']?(?:task|group|tag)[\"']?:[ \t]*[\"']?([A-Za-z0-9][\w.+-]*)", re.MULTILINE
)
_TAGS = re.compile(rb"^tag:[ \t]*\n((?:[ \t]*-[ \t]*\S+[ \t]*\n?)+)", re.MULTILINE)


def lm_eval_names() -> set[str] | None:
    """Every task, group and tag of the installed lm-eval; None if it is not installed."""
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        return None
    tasks = Path(found.submodule_search_locations[0]) / "tasks"
    # The templates that tasks include have no suffix, and may hold the tag.
    return _names(path for path in tasks.rglob("*") if path.suffix in ("", ".yaml", ".yml"))


def in_directory(directory: Path) -> set[str]:
    """The tasks that the `<task>.yaml` files of a benchmark directory define.

    A directory is searched only if it holds such a file at its top level, as in the worker.
    """
    if not any(directory.glob("*.yaml")):
        return set()
    return _names(directory.rglob("*.yaml"))


def _names(files: Iterable[Path]) -> set[str]:
    names: set[bytes] = set()
    for path in files:
        if path.is_dir():
            continue
        text = path.read_bytes()
        names.update(_NAME.findall(text))
        for block in _TAGS.findall(text):
            names.update(line.strip(b" \t-\"'") for line in block.splitlines())
    return {name.decode() for name in names}


def main() -> None:
    names = lm_eval_names()
    sys.stdout.write(json.dumps(None if names is None else sorted(names)) + "\n")


if __name__ == "__main__":
    main()
