"""Our queue beside others and beside what the filesystem itself takes, by jobs a second.

    python -m benchmarks.queues                      150 jobs, 1 to 8 processes, disk and MooseFS
    python -m benchmarks.queues --jobs 5000 --runs 1     what docs/benchmarks.md records
    python -m benchmarks.queues --depth              claims and status beside many pending jobs
    python -m benchmarks.queues --kill               what is lost, doubled or stuck after kill -9

Jobs are 1 KB. Enqueueing is timed from the moment at which all processes are ready to the last
job's return, and so are claims with commits, until all is done. benchmarks/peers.py says how each
queue is used and what the floor is. On the network filesystem (MooseFS on this machine, needs root)
processes alternate between two mounts, which is what two nodes are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import depth, survive
from benchmarks.common import NOT_INSTALLED, figure, machine, table, turns
from benchmarks.peers import PACKAGE_OF, PEERS, installed

PROCESSES, PLACES = (1, 2, 4, 8), ("disk", "network")
FAILED = float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.queues",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=150)
    parser.add_argument("--runs", type=int, default=1, help="in turn; their medians count")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES)
    parser.add_argument("--ways", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--root", type=Path, help="where on the local disk [default: temporary]")
    parser.add_argument("--where", nargs="+", choices=PLACES, default=PLACES)
    parser.add_argument("--depth", action="store_true")
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    print(machine("jobspec", *sorted(set(PACKAGE_OF.values()))), flush=True)
    with tempfile.TemporaryDirectory(dir=given.root) as scratch:
        if given.depth:
            return depth.print_growth(Path(scratch))
        if given.kill:
            return survive.print_kills(Path(scratch), given.ways)
        if "disk" in given.where:
            print("\nlocal disk")
            _compare(given, (Path(scratch),))
    if "network" in given.where:
        with _network() as mounts:
            if mounts:
                # SQLite's WAL needs one host, says its documentation. Tried on two mounts, every
                # job came twice, processes died of SIGBUS, and the mounts answered EIO after it.
                given.ways = [name for name in given.ways if not name.startswith("litequeue")]
                print("\nMooseFS, two mounts (litequeue: one host only)")
                _compare(given, mounts)
    return None


@contextlib.contextmanager
def _network() -> Iterator[tuple[Path, ...]]:
    """The two mounts; none, and the reason is printed, where it can't run."""
    from tests.support import moosefs

    reason = moosefs.missing()
    if reason is not None:
        print(f"\nMooseFS: {reason}")
        yield ()
        return
    with (
        tempfile.TemporaryDirectory(prefix="mfs-", ignore_cleanup_errors=True) as base,
        moosefs.running(Path(base)) as running,
    ):
        yield running.a, running.b


def _compare(given: argparse.Namespace, mounts: Sequence[Path]) -> None:
    there = [name for name in given.ways if installed(name)]
    rows: dict[str, list[list[str]]] = {"enqueue": [], "claim + commit": []}
    rates: dict[int, dict[str, dict[str, float]]] = {
        count: turns({name: partial(rate, name, mounts, given.jobs, count) for name in there},
                     given.runs)
        for count in given.processes
    }  # fmt: skip
    for name in given.ways:
        for what, lines in rows.items():
            cells = [NOT_INSTALLED] * len(given.processes)
            if name in there:
                cells = [_cell(rates[count], name, what) for count in given.processes]
            lines.append([name, *cells])
    for what, lines in rows.items():
        head = [f"{what}, jobs/s", *(f"{count} proc." for count in given.processes)]
        print(table(head, lines), flush=True)


def _cell(rates: dict[str, dict[str, float]], name: str, what: str) -> str:
    value, floor = rates[name][what], rates.get("floor", {}).get(what)
    if value != value:
        return "fails"
    share = f" ({value / floor:.2f})" if floor else ""
    wrong = "!" if rates[name]["wrong"] else ""
    return f"{figure(value)}{share}{wrong}"


def rate(name: str, mounts: Sequence[Path], jobs: int, processes: int) -> dict[str, float]:
    """Jobs a second of one queue; `wrong` of them were not claimed exactly once."""
    place = f"{name.replace(' ', '')}-{processes}-{time.monotonic_ns()}"
    shares = [range(first, jobs, processes) for first in range(processes)]
    places = [mounts[number % len(mounts)] / place for number in range(processes)]
    try:
        together([partial(_make, name, places[0])])  # litequeue's file is made by one at a time
        put = together(
            [partial(_enqueue, name, *each) for each in zip(places, shares, strict=True)]
        )
        took = together([partial(_drain, name, each) for each in places])
    except ChildError as error:
        print(f"{name}, {processes} processes: {error}", flush=True)
        return {"enqueue": FAILED, "claim + commit": FAILED, "wrong": 0.0}
    counts = Counter(number for numbers, _ in took for number in numbers)
    wrong = sum(counts[number] != 1 for number in range(jobs))
    if wrong:
        print(f"{name}, {processes} processes: {wrong} of {jobs} jobs came not once", flush=True)
    return {
        "enqueue": jobs / max(seconds for _, seconds in put),
        "claim + commit": jobs / max(seconds for _, seconds in took),
        "wrong": float(wrong),
    }


Body = Callable[[Callable[[], float]], Any]


def _make(name: str, place: Path, start: Callable[[], float]) -> None:
    PEERS[name](place)
    start()


def _enqueue(name: str, place: Path, numbers: range, start: Callable[[], float]) -> Any:
    peer = PEERS[name](place)
    began = start()
    for number in numbers:
        peer.enqueue(number)
    return len(numbers), time.monotonic() - began


def _drain(name: str, place: Path, start: Callable[[], float]) -> Any:
    peer, numbers = PEERS[name](place), list[int]()
    began = ended = start()
    while (claimed := peer.claim()) is not None:
        peer.commit(claimed[1])
        numbers.append(claimed[0])
        ended = time.monotonic()
    return numbers, ended - began


class ChildError(Exception):
    """A process failed; what it said last."""


def together(bodies: Sequence[Body]) -> list[Any]:
    """Run bodies in processes of their own; each waits in `start()` until all are there.

    Returns:
        What each returned (JSON); `start()` returns the common beginning, monotonic seconds.

    Raises:
        ChildError: one of them raised.
    """
    ready, told = os.pipe()
    gate, opener = os.pipe()
    answers = [os.pipe() for _ in bodies]
    children = [
        _child(body, (told, gate), (opener, ready), answer)
        for body, (_, answer) in zip(bodies, answers, strict=True)
    ]
    os.close(told)
    os.close(gate)
    for _ in bodies:
        os.read(ready, 1)
    with contextlib.suppress(BrokenPipeError):  # all have failed, and say so below
        os.write(opener, f"{time.monotonic():32.9f}".encode() * len(bodies))
    for _, answer in answers:
        os.close(answer)
    texts = [_read_all(readable) for readable, _ in answers]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(ready)
    os.close(opener)
    for text, code in zip(texts, codes, strict=True):
        if code:
            raise ChildError(text.decode(errors="replace") or f"exit code {code}")
    return [json.loads(text) for text in texts]


def _child(body: Body, ours: tuple[int, int], theirs: tuple[int, int], answer: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for descriptor in theirs:
            os.close(descriptor)

        def start() -> float:
            os.write(ours[0], b"x")
            return float(os.read(ours[1], 32))

        os.write(answer, json.dumps(body(start)).encode())
        code = 0
    except BaseException as error:
        os.write(ours[0], b"x")  # nobody need wait for it
        os.write(answer, traceback.format_exception_only(error)[-1].strip().encode())
    finally:
        os._exit(code)


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


if __name__ == "__main__":
    main()
