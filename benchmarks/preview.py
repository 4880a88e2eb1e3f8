"""Searches many rows for near duplicates and for benchmark questions, as `jobspec preview` does.

    python -m benchmarks.preview [--rows 100000] [--words 500]

The rows are texts of random words with the frequencies of a natural language, about `--words` words
each. One row in 100 is an earlier one with 1 % of the words changed, and one in 1,000 has one of
500 benchmark questions, with other spaces. It prints seconds, and how many of these were found.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import figure, machine, table
from benchmarks.text import TextSource
from jobspec.benchmarks.benchmark import Question
from jobspec.benchmarks.question_file import QuestionSet
from jobspec.benchmarks.registry import all_benchmarks
from jobspec.spec.schema import DataSpec
from worker.contamination import overlap
from worker.preview import duplicates
from worker.rows.data_sources import DataSources, sources_of

COPIED, CHANGED, ASKED = 100, 100, 1000  # one row in, one word in, one row in
QUESTIONS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=500)
    args = parser.parse_args()
    print(machine("numpy"), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        print("\n".join(measure(place, args.rows, args.words)))


def measure(place: Path, rows: int, words: int) -> Iterator[str]:
    """Write rows, and search them; yields a table's lines."""
    rng = random.Random(0)
    text = TextSource(rng)
    asked = [text.draw(40) for _ in range(QUESTIONS)]
    file = place / "rows.jsonl"
    copies, questions = write(file, rows, words, text, asked)
    yield f"{rows:,} rows, {file.stat().st_size / 2**20:,.0f} MiB, {copies:,} near duplicates,"
    yield f"{questions:,} with one of {QUESTIONS} questions of 40 words"
    sources = sources_of(DataSpec(path=str(file)))
    named = tuple(
        Question(id=f"{n}", problem=problem, answer="") for n, problem in enumerate(asked)
    )
    one = QuestionSet(benchmark=all_benchmarks()[0], questions=named, sha256="", file="")
    with DataSources(sources, place) as opened:
        searched, asking = timed(lambda: overlap.measure({"bench": one}, opened)["bench"])
        texts, reading = timed(lambda: duplicates.read(opened))
        found, comparing = timed(lambda: duplicates.find(texts))
    lines = [
        ["benchmark questions", *asking, f"{searched.rows_found:,} rows"],
        ["near duplicates: read, hash", *reading, f"{len(texts.numbers):,} rows"],
        ["near duplicates: compare", *comparing, f"{found.near_rows:,} rows"],
    ]
    yield table(["", "wall s", "CPU s", "found"], lines)
    yield f"peak memory of a process: {peak_gib():.2f} GiB"


def write(file: Path, rows: int, words: int, text: TextSource, asked: list[str]) -> tuple[int, int]:
    """Write the rows; returns how many are near duplicates, and how many contain a question."""
    copies = questions = 0
    earlier = text.draw(words)
    with file.open("w") as out:
        for row in range(1, rows + 1):
            answer, prompt = text.draw(words), text.draw(20)
            if row % COPIED == 0:
                answer, copies = text.change(earlier, CHANGED), copies + 1
            if row % COPIED == COPIED // 2:
                earlier = answer
            if row % ASKED == 1:
                prompt = asked[questions % QUESTIONS].replace(" ", "  ").upper()
                questions += 1
            messages = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
            out.write(json.dumps({"messages": messages}) + "\n")
    return copies, questions


def timed(run: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What `run` returns, its wall time and its CPU time with that of its processes."""
    began, used = time.monotonic(), cpu_s()
    result = run()
    return result, [figure(time.monotonic() - began), figure(cpu_s() - used)]


def cpu_s() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in both)


def peak_gib() -> float:
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in both) / 2**20


if __name__ == "__main__":
    main()
