"""Warns of benchmark questions in the training data that the spec allows, or that were not sought.

Rows with questions that it does not allow are refused where they are found, in the worker's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jobspec.benchmarks import registry
from jobspec.records.reports import Overlap

_ALLOWED = "data.allow_contaminated"


def warn(overlaps: Mapping[str, Overlap | None]) -> Iterator[str]:
    """Yield warnings about the overlap of a spec's data with its benchmarks."""
    for name, found in overlaps.items():
        if found is not None and found.rows_found:
            rows = (
                "1 row contains" if found.rows_found == 1 else f"{found.rows_found:,} rows contain"
            )
            yield (
                f"{_ALLOWED}: {rows} {found.questions_found:,} of "
                f"{found.questions:,} questions of {name}: its score says little"
            )
    missing = [name for name, found in overlaps.items() if found is None]
    ours = [name for name in missing if registry.get(name) is not None]
    others = [name for name in missing if name not in ours]
    if ours:
        yield (
            f"{', '.join(ours)}: no file here, so the rows were not searched for its questions; "
            "prepare searches them before training, where the file is"
        )
    if others:
        yield f"{', '.join(others)}: lm-eval's questions, for which the rows are not searched"
