"""Which pending entries a worker tries to claim, in which order, without asking the disk twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from jobspec import spec as specs
from jobspec.entries import Entry, answers_to, in_state, read_bytes
from jobspec.errors import RootError, SpecError
from jobspec.paths import RootPaths
from jobspec.record import State
from jobspec.spec import JobSpec

_FIRST_FEW = 8


class Picker:
    """Remembers specs by job and refusals by entry name, so that a poll is one listing.

    `notes` says, by job, why entries were passed over that only another version or user can do.
    """

    def __init__(self, root: RootPaths, *, owned: bool) -> None:
        self.notes: dict[str, str] = {}
        self._root = root
        self._owned = owned
        self._specs: dict[str, JobSpec] = {}
        self._unfit: set[str] = set()

    def candidates(self, fits: Callable[[JobSpec], bool]) -> Iterator[Entry]:
        """Pending entries that fit, in claim order but for a random start among the first few.

        RACE: many idle workers see the same list; were all to begin at its head, each would lose to
        all the others. The groups grow, so that losers spread out further.
        """
        pending = in_state(self._root, State.PENDING)
        self._forget_gone(pending)
        left = [entry for entry in pending if entry.name not in self._unfit]
        size = _FIRST_FEW
        while left:
            group = [entry for entry in left[:size] if entry.ticket.rank == left[0].ticket.rank]
            left, size = left[len(group) :], size * 2
            start = random.randrange(len(group))
            yield from (e for e in group[start:] + group[:start] if self._suits(e, fits))

    def spec(self, job: str, data: bytes) -> JobSpec:
        """The job's spec, decoded at most once."""
        return self._specs.get(job) or specs.decode(data)

    def _suits(self, entry: Entry, fits: Callable[[JobSpec], bool]) -> bool:
        spec = self._spec_of(entry)
        if spec is None:
            return entry.name not in self._unfit  # damaged: whoever claims it heals or ends it
        if fits(spec):
            return True
        self._unfit.add(entry.name)
        return False

    def _spec_of(self, entry: Entry) -> JobSpec | None:
        job = entry.ticket.job
        if job not in self._specs:
            try:
                data = self._good_bytes(entry)
                if data is None:
                    return None
                self._specs[job] = specs.decode(data)
            except (RootError, SpecError) as error:
                self._unfit.add(entry.name)
                self.notes[job] = f"left pending: {error}"
                return None
        return self._specs[job]

    def _good_bytes(self, entry: Entry) -> bytes | None:
        for path in (entry.path(self._root), self._root.job(entry.ticket.job).spec):
            data = read_bytes(path, owned=self._owned)
            if data is not None and answers_to(entry.ticket.job, data):
                return data
        return None

    def _forget_gone(self, pending: list[Entry]) -> None:
        jobs = {entry.ticket.job for entry in pending}
        self._unfit &= {entry.name for entry in pending}
        self._specs = {job: spec for job, spec in self._specs.items() if job in jobs}
        self.notes = {job: note for job, note in self.notes.items() if job in jobs}
