"""Counts the kept and dropped rows of the data, for its report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from jobspec.records.base import UNSET
from jobspec.records.mixture import SourceReport, TokenCounts
from jobspec.records.reports import DatasetReport, DroppedExample, UnrenderedField
from worker.data.split import Split
from worker.data.tokenize import ChunkResult, DroppedLine, KeptRow
from worker.rows.data_sources import DataSources

_EXCERPT = 2000


class RowCounts:
    """Adds up the results of the chunks, in the order of the files."""

    def __init__(self) -> None:
        self.rows_in: Counter[int] = Counter()
        self.kept: list[KeptRow] = []
        self._dropped: Counter[tuple[int, str]] = Counter()
        self._first: dict[tuple[int, str], DroppedLine] = {}
        self._dropped_lengths: list[int] = []
        self._unrendered: dict[str, list[int]] = {}

    def add(self, done: ChunkResult) -> None:
        self.rows_in[done.source] += done.rows_in
        self.kept += done.kept
        for name, numbers in done.unrendered.items():
            self._unrendered.setdefault(name, []).extend(numbers)
        for row in done.dropped:
            kind = (done.source, str(row.kind))
            self._dropped[kind] += 1
            self._first.setdefault(kind, row)
            if row.tokens is not None:
                self._dropped_lengths.append(row.tokens)

    def report(self, split: Split, think_end: str, sources: DataSources) -> DatasetReport:
        """The counts of a report. The caller adds the hashes of the inputs."""
        train = [row for row in self.kept for _ in range(split.train.get(row.position, 0))]
        held_out = [row for row in self.kept if row.position in split.held_out]
        rows = train + held_out
        lengths = sorted([*(row.tokens for row in rows), *self._dropped_lengths])
        return DatasetReport(
            rows_in=self.rows_in.total(),
            rows_selected=len(self.kept) + self._dropped.total(),
            rows_kept=len(split.train) + len(held_out),
            rows_train=len(train),
            rows_eval=len(held_out),
            dropped=self._dropped_by_kind(),
            over_long_tokens=sum(self._dropped_lengths),
            first_dropped=tuple(_example(row, sources) for row in self._first.values()),
            unrendered=tuple(
                _unrendered(name, positions, sources)
                for name, positions in sorted(self._unrendered.items())
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
            sources=tuple(self._sources(train, held_out, sources)),
        )

    def _dropped_by_kind(self, source: int | None = None) -> dict[str, int]:
        """The number of dropped rows by kind, of one source or of all."""
        counts: Counter[str] = Counter()
        for (index, kind), count in self._dropped.items():
            if source in (None, index):
                counts[kind] += count
        return dict(sorted(counts.items()))

    def _sources(
        self, train: list[KeptRow], held_out: list[KeptRow], sources: DataSources
    ) -> Iterator[SourceReport]:
        """The counts of each source of a mixture."""

        def by_source(rows: list[KeptRow]) -> list[list[KeptRow]]:
            found: list[list[KeptRow]] = [[] for _ in sources.sources]
            for row in rows:
                found[sources.index_of(row.position)].append(row)
            return found

        parts = zip(*map(by_source, (self.kept, train, held_out)), strict=True)
        for index, (kept, trained, held) in enumerate(parts):
            name, dropped = sources.sources[index].name, self._dropped_by_kind(index)
            if name:
                different = len({row.position for row in trained})
                yield SourceReport(
                    name=name,
                    rows_in=self.rows_in[index],
                    rows_selected=len(kept) + sum(dropped.values()),
                    dropped=dropped,
                    repeat=round(len(trained) / max(1, different), 6),
                    train=_tokens(trained),
                    eval=_tokens(held),
                )


def percentiles(ordered: list[int]) -> dict[str, int]:
    """The 50th, 90th and 99th percentile of the row lengths, and the maximum."""
    if not ordered:
        return {}
    at = {f"p{p}": ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in (50, 90, 99)}
    return at | {"max": ordered[-1]}


def _example(row: DroppedLine, sources: DataSources) -> DroppedExample:
    text = row.text
    if len(text) > _EXCERPT:
        half = _EXCERPT // 2
        text = f"{text[:half]}\n[… {len(text) - _EXCERPT} characters …]\n{text[-half:]}"
    source, number = sources.locate(row.position)
    name = source.name or UNSET
    return DroppedExample(row=number, kind=row.kind, reason=row.reason, text=text, source=name)


def _unrendered(name: str, positions: list[int], sources: DataSources) -> UnrenderedField:
    source, number = sources.locate(positions[0])
    return UnrenderedField(
        name=name, rows=len(positions), first_row=number, source=source.name or UNSET
    )


def _prompts(rows: Iterable[KeptRow]) -> int:
    return len({row.prompt for row in rows})


def _tokens(rows: list[KeptRow]) -> TokenCounts:
    tokens, trained = sum(row.tokens for row in rows), sum(row.trained for row in rows)
    return TokenCounts(rows=len(rows), tokens=tokens, trained_tokens=trained)
