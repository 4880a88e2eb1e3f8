"""Which pending entries a worker tries to claim, in which order, without asking the disk twice."""

from __future__ import annotations

import errno
import itertools
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path

from jobspec.errors import RootError, SpecError
from jobspec.queue.entries import Entry, answers_to, list_state, parse, read_bytes
from jobspec.records.base import State
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths, Ticket

_FIRST_FEW = 8
# A listing longer than this, no older than an idle worker's shortest wait, serves several claims:
# by itself it costs more than one. Many misses on it say that others are at work, so it is stale.
_LONG, _REUSED_S, _MOST_MISSES = 256, 2.0, 32
# Errors that say something of one entry, not of the filesystem: a link, a directory, no permission.
# One such name must not keep a worker from all the others.
_OF_ONE_FILE = (errno.ELOOP, errno.EISDIR, errno.EACCES, errno.EPERM)


class Candidates:
    """Remembers specs and refusals by entry name, so that a poll is one listing.

    Args:
        root: the root.
        owned: refuse files that another user owns.
        clock: monotonic seconds.
    """

    def __init__(self, root: RootPaths, *, owned: bool, clock: Callable[[], float]) -> None:
        self._root = root
        self._owned = owned
        self._clock = clock
        self._left: list[str] = []  # of the last long listing: in claim order, not yet tried
        self._listed_at = 0.0
        self._specs: dict[str, JobSpec] = {}
        self._unfit: set[str] = set()
        self._notes: dict[str, str] = {}
        self._read: tuple[str, bytes] = "", b""  # the last good ticket: name and bytes

    @property
    def notes(self) -> dict[str, str]:
        """Why entries were passed over that only another version or user can do, by job."""
        found = {parse(State.PENDING, name): note for name, note in self._notes.items()}
        return {entry.ticket.job: note for entry, note in found.items() if entry is not None}

    def candidates(
        self,
        fits: Callable[[JobSpec], bool],
        now: Callable[[Ticket], bool] = lambda ticket: True,
        *,
        reuse: bool = False,
    ) -> Iterator[Entry]:
        """Pending entries that fit, in claim order but for a random start among the first few.

        With `reuse`, what is left of a long listing made just before comes first, so that claims in
        a deep queue don't list it each; what was enqueued meanwhile may come after it. Where that
        gives nothing the directory is listed anew.
        """
        self._read = "", b""
        if reuse and self._clock() - self._listed_at < _REUSED_S:
            yield from itertools.islice(self._offer(self._left, fits, now), _MOST_MISSES)
        began = self._clock()
        names = set(list_state(self._root, State.PENDING))
        self._forget_all_but(names)
        left = sorted(names - self._unfit)
        if reuse:
            self._left, self._listed_at = (left if len(names) > _LONG else []), began
        yield from self._offer(left, fits, now)

    def _offer(
        self, left: list[str], fits: Callable[[JobSpec], bool], now: Callable[[Ticket], bool]
    ) -> Iterator[Entry]:
        """The entries to try, each taken out of `left` as it is offered; who is not to be taken now
        stays.

        RACE: many idle workers see the same list; were all to begin at its head, each would lose to
        all the others. Who asks for another has lost one, and chooses among twice as many.
        """
        size, stay = _FIRST_FEW, set[str]()
        while group := [name for name in left[: size + len(stay)] if name not in stay]:
            group = [name for name in group if name[:3] == group[0][:3]]
            size *= 2
            start = random.randrange(len(group))
            for name in group[start:] + group[:start]:
                entry = parse(State.PENDING, name)
                suits = entry is not None and self._suits(entry, fits)
                if entry is not None and suits and not now(entry.ticket):
                    stay.add(name)
                    continue
                del left[bisect_left(left, name)]
                if entry is not None and suits:
                    yield entry
                    break

    def just_read(self, entry: Entry) -> bytes | None:
        """The ticket's bytes, if it was read, and good, since `candidates` was last called."""
        name, data = self._read
        return data if name == entry.name else None

    def spec(self, entry: Entry, data: bytes) -> JobSpec:
        """The spec, decoded at most once."""
        return self._specs.get(entry.ticket.name) or parsing.decode(data)

    def _suits(self, entry: Entry, fits: Callable[[JobSpec], bool]) -> bool:
        spec = self._spec_of(entry)
        if spec is None:
            return entry.name not in self._unfit  # damaged: whoever claims it heals or ends it
        if fits(spec):
            return True
        self._unfit.add(entry.name)
        return False

    def _spec_of(self, entry: Entry) -> JobSpec | None:
        if entry.name not in self._specs:
            try:
                data = self._good_bytes(entry)
                if data is None:
                    return None
                self._specs[entry.name] = parsing.decode(data)
            except (RootError, SpecError) as error:
                self._unfit.add(entry.name)
                self._notes[entry.name] = f"left pending: {error}"
                return None
            except OSError as error:
                if error.errno not in _OF_ONE_FILE:
                    raise
                self._unfit.add(entry.name)
                self._notes[entry.name] = f"left pending: {entry.name}: {error.strerror}"
                return None
        return self._specs[entry.name]

    def _good_bytes(self, entry: Entry) -> bytes | None:
        data = self._ours(entry, entry.path(self._root))
        if data is not None:
            self._read = entry.name, data
            return data
        return self._ours(entry, self._root.job(entry.ticket.job).spec)

    def _ours(self, entry: Entry, path: Path) -> bytes | None:
        data = read_bytes(path, owned=self._owned)
        return data if data is not None and answers_to(entry.ticket.job, data) else None

    def _forget_all_but(self, names: set[str]) -> None:
        self._unfit &= names
        self._specs = {name: spec for name, spec in self._specs.items() if name in names}
        self._notes = {name: note for name, note in self._notes.items() if name in names}
