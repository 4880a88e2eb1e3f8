"""Benchmarks know each option that the pages and `make bench` name; whole they take an hour."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from benchmarks import run_all
from tests.support.docs import PAGES
from tests.support.paths import REPOSITORY

_LINE = re.compile(r"python -m benchmarks\.([^`;\n]+)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def named() -> dict[str, set[str]]:
    """Module → options, by pages and by `make bench`."""
    lines = [line for page in PAGES for line in _LINE.findall(page.read_text())]
    lines += [*run_all.ALL.values(), *run_all.QUICK.values()]
    found: dict[str, set[str]] = {}
    for line in lines:
        module, *options = shlex.split(line)
        found.setdefault(module, set()).update(o for o in options if o.startswith("--"))
    return found


@pytest.mark.parametrize(("module", "options"), sorted(named().items()))
def test_a_benchmark_knows_the_options_that_are_named(module: str, options: set[str]) -> None:
    asked = [sys.executable, "-m", f"benchmarks.{module}", "--help"]
    shown = subprocess.run(
        asked, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert options <= set(_OPTION.findall(shown.stdout))


def test_quick_ones_are_among_all() -> None:
    assert run_all.QUICK.keys() <= run_all.ALL.keys()
