"""Counts the kept and dropped rows of a data file, for its report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from jobspec.records.reports import DatasetReport, DroppedExample, TokenCounts, UnrenderedField
from worker.data.split import Split
from worker.data.tokenize import ChunkResult, DroppedLine, KeptRow

_EXCERPT = 2000


class RowCounts:
    """Adds up the results of the chunks, in the order of the file."""

    def __init__(self) -> None:
        self.rows_in = 0
        self.kept: list[KeptRow] = []
        self._dropped: Counter[str] = Counter()
        self._first: dict[str, DroppedLine] = {}
        self._dropped_lengths: list[int] = []
        self._unrendered: dict[str, list[int]] = {}

    def add(self, done: ChunkResult) -> None:
        self.rows_in += done.rows_in
        self.kept += done.kept
        for name, numbers in done.unrendered.items():
            self._unrendered.setdefault(name, []).extend(numbers)
        for row in done.dropped:
            self._dropped[row.kind] += 1
            self._first.setdefault(row.kind, row)
            if row.tokens is not None:
                self._dropped_lengths.append(row.tokens)

    def report(self, split: Split, think_end: str) -> DatasetReport:
        """The counts of a report. The caller adds the hashes of the inputs."""
        train = [row for row in self.kept if row.number in split.train]
        held_out = [row for row in self.kept if row.number in split.held_out]
        rows = train + held_out
        lengths = sorted([*(row.tokens for row in rows), *self._dropped_lengths])
        return DatasetReport(
            rows_in=self.rows_in,
            rows_selected=len(self.kept) + self._dropped.total(),
            rows_kept=len(rows),
            rows_train=len(train),
            rows_eval=len(held_out),
            dropped=dict(sorted(self._dropped.items())),
            first_dropped=tuple(_example(row) for row in self._first.values()),
            unrendered=tuple(
                UnrenderedField(name=name, rows=len(numbers), first_row=numbers[0])
                for name, numbers in sorted(self._unrendered.items())
            ),
            prompts=_prompts(rows),
            prompts_eval=_prompts(held_out),
            tokens=sum(row.tokens for row in rows),
            trained_tokens=sum(row.trained for row in rows),
            train=_tokens(train),
            eval=_tokens(held_out),
            length_percentiles=percentiles(lengths),
            rows_without_thinking=sum(not row.has_thinking for row in rows),
            rows_with_earlier_thinking_dropped=sum(row.thinking_dropped > 0 for row in rows),
            think_end_token=think_end,
            rows_with_think_end_token=sum(row.has_think_end for row in rows),
        )


def percentiles(ordered: list[int]) -> dict[str, int]:
    """The 50th, 90th and 99th percentile of the row lengths, and the maximum."""
    if not ordered:
        return {}
    at = {f"p{p}": ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in (50, 90, 99)}
    return at | {"max": ordered[-1]}


def _example(row: DroppedLine) -> DroppedExample:
    text = row.text
    if len(text) > _EXCERPT:
        half = _EXCERPT // 2
        text = f"{text[:half]}\n[… {len(text) - _EXCERPT} characters …]\n{text[-half:]}"
    return DroppedExample(row=row.number, kind=row.kind, reason=row.reason, text=text)


def _prompts(rows: Iterable[KeptRow]) -> int:
    return len({row.prompt for row in rows})


def _tokens(rows: list[KeptRow]) -> TokenCounts:
    tokens, trained = sum(row.tokens for row in rows), sum(row.trained for row in rows)
    return TokenCounts(rows=len(rows), tokens=tokens, trained_tokens=trained)
