"""Chooses the pending entries that a worker tries to claim, and reads each file at most once."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from jobspec.errors import RootError, SpecError
from jobspec.queue.entries import Entry, list_state, matches_id, parse, read_bytes
from jobspec.queue.fair_share import FairShare
from jobspec.records.base import State
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths, Ticket

_FIRST_WINDOW = 8
_CONTENDED_S = 60.0
# A listing of more than _LONG names costs more than a claim, so it is reused for _REUSED_S, the
# shortest wait of an idle worker. Many misses show that other workers made it stale.
_LONG, _REUSED_S, _MAX_MISSES = 256, 2.0, 32
# Errors caused by one entry (a link, a directory, no permission) rather than by the filesystem.
# Such an entry is skipped, so that it does not keep a worker from all others.
_ENTRY_ERRORS = (errno.ELOOP, errno.EISDIR, errno.EACCES, errno.EPERM)


class Candidates:
    """Remembers specs and unsuitable entries by name, so that a poll costs one listing.

    Args:
        root: the root.
        owned: refuse files that another user owns.
        clock: monotonic seconds.
    """

    def __init__(self, root: RootPaths, *, owned: bool, clock: Callable[[], float]) -> None:
        self._root = root
        self._owned = owned
        self._clock = clock
        self.share = FairShare(root, clock)
        self._left: list[str] = []  # the untried rest of the last long listing, in claim order
        self._listed_at = 0.0
        self._lost_race_at = float("-inf")
        self._specs: dict[str, JobSpec] = {}
        self._unfit: set[str] = set()
        self._notes: dict[str, str] = {}
        # Name and bytes of the last ticket that was read and valid.
        self._read: tuple[str, bytes] = "", b""

    @property
    def notes(self) -> dict[str, str]:
        """Jobs that only another version or another user can run, each with the reason."""
        notes = {parse(State.PENDING, name): note for name, note in self._notes.items()}
        return {entry.ticket.job: note for entry, note in notes.items() if entry is not None}

    def select(
        self,
        fits: Callable[[JobSpec], bool],
        now: Callable[[Ticket], bool] = lambda ticket: True,
        *,
        reuse: bool = False,
    ) -> Iterator[Entry]:
        """Yield pending entries that fit, in claim order. Asking for another means a lost race.

        For a minute after a lost race, the order starts at random among the first few.

        With `reuse`, the untried rest of a recent long listing comes first, so that not every claim
        in a deep queue has to list it. Jobs enqueued since then may come later. If the rest yields
        nothing, the directory is listed again.
        """
        self._read = "", b""
        if reuse and self._clock() - self._listed_at < _REUSED_S:
            yield from itertools.islice(self._untried(self._left, fits, now), _MAX_MISSES)
        began = self._clock()
        names = set(list_state(self._root, State.PENDING))
        self._forget_all_but(names)
        left = self.share.order(sorted(names - self._unfit))
        if reuse:
            self._left, self._listed_at = (left if len(names) > _LONG else []), began
        yield from self._untried(left, fits, now)

    def _untried(
        self, left: list[str], fits: Callable[[JobSpec], bool], now: Callable[[Ticket], bool]
    ) -> Iterator[Entry]:
        """Yield the entries to try and remove them from `left`; entries to claim later stay in it.

        RACE: many idle workers see the same list. If all started at its head, each would lose to
        all others. A worker that lost the race doubles the window it picks from. One that has lost
        none lately takes the first, so a single worker keeps the order.
        """
        contended = self._clock() - self._lost_race_at < _CONTENDED_S
        window, postponed = _FIRST_WINDOW if contended else 1, set[str]()
        while names := [name for name in left[: window + len(postponed)] if name not in postponed]:
            names = [name for name in names if name[:3] == names[0][:3]]
            window = 2 * max(window, _FIRST_WINDOW)
            start = random.randrange(len(names))
            for name in names[start:] + names[:start]:
                entry = parse(State.PENDING, name)
                if entry is not None and self.share.is_full(entry.ticket.job):
                    left.remove(name)
                    continue
                suitable = entry is not None and self._suits(entry, fits)
                if entry is not None and suitable and not now(entry.ticket):
                    postponed.add(name)
                    continue
                left.remove(name)
                if entry is not None and suitable:
                    yield entry
                    self._lost_race_at = self._clock()
                    break

    def recently_read(self, entry: Entry) -> bytes | None:
        """The ticket's bytes, if they were read and valid since `select` was last called."""
        name, data = self._read
        return data if name == entry.name else None

    def spec(self, entry: Entry, data: bytes) -> JobSpec:
        """Decode the spec, or return the one decoded before."""
        return self._specs.get(entry.ticket.name) or parsing.decode(data)

    def _suits(self, entry: Entry, fits: Callable[[JobSpec], bool]) -> bool:
        spec = self._spec_of(entry)
        if spec is None:
            return entry.name not in self._unfit  # damaged: the claim repairs or ends it
        if fits(spec):
            return True
        self._unfit.add(entry.name)
        return False

    def _spec_of(self, entry: Entry) -> JobSpec | None:
        if entry.name not in self._specs:
            try:
                data = self._read_spec(entry)
                if data is None:
                    return None
                self._specs[entry.name] = parsing.decode(data)
            except (RootError, SpecError) as error:
                self._unfit.add(entry.name)
                self._notes[entry.name] = f"left pending: {error}"
                return None
            except OSError as error:
                if error.errno not in _ENTRY_ERRORS:
                    raise
                self._unfit.add(entry.name)
                self._notes[entry.name] = f"left pending: {entry.name}: {error.strerror}"
                return None
        return self._specs[entry.name]

    def _read_spec(self, entry: Entry) -> bytes | None:
        data = self._read_valid(entry, entry.path(self._root))
        if data is not None:
            self._read = entry.name, data
            return data
        return self._read_valid(entry, self._root.job(entry.ticket.job).spec)

    def _read_valid(self, entry: Entry, path: Path) -> bytes | None:
        data = read_bytes(path, owned=self._owned)
        return data if data is not None and matches_id(entry.ticket.job, data) else None

    def _forget_all_but(self, names: set[str]) -> None:
        self._unfit &= names
        self._specs = {name: spec for name, spec in self._specs.items() if name in names}
        self._notes = {name: note for name, note in self._notes.items() if name in names}
