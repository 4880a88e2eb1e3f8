"""What several processes found when they tried a directory together."""

from __future__ import annotations

from typing import Literal

import msgspec


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How late `watcher` saw what `actor` did; `missed` changes were not seen while it looked."""

    kind: str
    actor: str
    watcher: str
    median_s: float | None
    longest_s: float | None
    missed: int = 0


class Clocks(msgspec.Struct, frozen=True, kw_only=True):
    """`watcher`'s clock less `actor`'s, known to `error_s`; `round_trip_s` is the longest."""

    actor: str
    watcher: str
    ahead_s: float
    error_s: float
    round_trip_s: float


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """Who got files that all tried to rename. `losers` counts what losers were told, by errno.

    `won` counts the files that each process got, `doubled` those that several did, `unclaimed`
    those that nobody did, `lost_replies` the winners that were told of a failure.
    """

    actor: str
    files: int
    won: list[int]
    doubled: int
    unclaimed: int
    lost_replies: int
    losers: dict[str, int]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a meeting found. `silent` came, but did not answer in time; `noticed` by inotify."""

    members: list[str] = []
    silent: list[str] = []
    lags: list[Lag] = []
    clocks: list[Clocks] = []
    races: list[Race] = []
    noticed: dict[str, bool] = {}


def joined(one: Found, other: Found) -> Found:
    """Both findings as one."""
    return Found(
        members=one.members or other.members,
        silent=sorted({*one.silent, *other.silent}),
        lags=one.lags + other.lags,
        clocks=one.clocks + other.clocks,
        races=one.races + other.races,
        noticed=other.noticed | {n: s and other.noticed.get(n, s) for n, s in one.noticed.items()},
    )


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long a call took, of so many."""

    count: int
    median_s: float
    longest_s: float


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Publishing 4 KiB (with its fsyncs), a beat's rename, a listing."""

    publish: Timing
    rename: Timing
    listing: Timing


class ServerClock(msgspec.Struct, frozen=True, kw_only=True):
    """The clock that stamps files less this host's, known to `error_s`."""

    ahead_s: float
    error_s: float
    whole_seconds: bool


class Free(msgspec.Struct, frozen=True, kw_only=True):
    """What is free; a quota may leave less. `free_inodes` is null where they aren't counted."""

    free_gib: float
    free_inodes: int | None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A directory and the filesystem it is on."""

    path: str
    filesystem: str
    source: str
    mounted_at: str
    local: bool
    options: list[str]
    longest_name: int
    room: Free


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured. `across` is null where no other host took part."""

    costs: Costs
    broken: list[str]
    server_clock: ServerClock
    here: Found
    across: Found | None = None
    missed_peers: str | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding in words; `hint` says what to change."""

    check: str
    verdict: Literal["ok", "warn", "bad"]
    told: str
    hint: str | None = None


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Times that fit the filesystem; `notifications`: idle workers may wait for inotify."""

    notifications: bool
    poll_s: float
    longest_poll_s: float
    heartbeat_s: float
    lease_s: float
    why: str


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """`doctor --json`, field by field."""

    schema: int = 1
    root: str
    host: str
    place: Place
    tmpdir: Place
    measured: Measured | None
    checks: list[Check]
    advice: Advice | None
    seconds: float

    @property
    def well(self) -> bool:
        """Whether nothing found forbids a queue here."""
        return all(check.verdict != "bad" for check in self.checks)
