"""What several benchmarks share: the machine in one line, runs in turn, tables."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

NOT_INSTALLED = "not installed"


def machine(*packages: str) -> str:
    """Date, processor, cores, load, Python, kernel and the packages' versions: a figure's origin.

    The load is what ran beside when this was asked, so ask before the first run.
    """
    cores = len(os.sched_getaffinity(0))
    parts = [
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        f"{cores} cores of {_processor()}",
        f"load {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}",
        f"Linux {platform.release()}",
        *(f"{package} {version(package)}" for package in packages),
    ]
    return ", ".join(parts)


def version(package: str) -> str:
    """An installed package's version, or that it isn't installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def turns(
    ways: Mapping[str, Callable[[], Mapping[str, float]]], runs: int
) -> dict[str, dict[str, float]]:
    """Run every way `runs` times, in turn (A B A B …), so that what disturbs disturbs all alike.

    Args:
        ways: what is compared; each run returns its figures by name.
        runs: how many of each.

    Returns:
        For each way, the median of each figure.
    """
    taken: dict[str, list[Mapping[str, float]]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, run in ways.items():
            taken[name].append(run())
    return {name: medians(rows) for name, rows in taken.items()}


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over several runs."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first aligned to the left, all others to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def figure(value: float) -> str:
    """Three digits that count, without an exponent: `0.31`, `15.8`, `1,203`."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
