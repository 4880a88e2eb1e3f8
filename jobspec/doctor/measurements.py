"""Record types of what the doctor measured: field by field what `doctor --json` prints."""

from __future__ import annotations

from typing import Literal

import msgspec

from jobspec.records.answers import MachineFact


class VisibilityLag(msgspec.Struct, frozen=True, kw_only=True):
    """How late `watcher` and `actor` saw each other's changes, at most.

    The figures are round trips: from a change of `actor` until it saw the same change made by
    `watcher` in answer. `missed`: answers that it did not see in time.
    """

    kind: str
    actor: str
    watcher: str
    median_s: float | None
    longest_s: float | None
    missed: int = 0


class RaceResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a race for `actor`'s files, which all members tried to rename.

    `won` counts the files that each member got, `doubled` those that several members got,
    `unclaimed` those that none got, `lost_replies` the winners whose rename returned an error.
    `losers` counts the errors that losers got, by errno.
    """

    actor: str
    files: int
    won: list[int]
    doubled: int
    unclaimed: int
    lost_replies: int
    losers: dict[str, int]


class JointMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """What several members measured together: threads of this host, or hosts.

    `silent`: members that did not answer in time. `noticed`: by member, whether inotify
    reported another member's changes. `clocks` is always empty and kept for readers of older
    reports: each host compares its own clock with the filesystem's.
    """

    members: list[str] = []
    silent: list[str] = []
    lags: list[VisibilityLag] = []
    clocks: list[str] = []
    races: list[RaceResult] = []
    noticed: dict[str, bool] = {}


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long a call took, over `count` calls."""

    count: int
    median_s: float
    longest_s: float


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Publishing 4 KiB with its fsyncs, the rename of a heartbeat, a listing."""

    publish: Timing
    rename: Timing
    listing: Timing


class ServerClock(msgspec.Struct, frozen=True, kw_only=True):
    """The clock that stamps files minus this host's, ± `error_s`."""

    ahead_s: float
    error_s: float
    whole_seconds: bool


class FreeSpace(msgspec.Struct, frozen=True, kw_only=True):
    """Free space; a quota may leave less. `free_inodes` is null if the filesystem has no count."""

    free_gib: float
    free_inodes: int | None


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """A directory and the filesystem it is on."""

    path: str
    filesystem: str
    source: str
    mounted_at: str
    local: bool
    options: list[str]
    longest_name: int
    room: FreeSpace


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured. `across` is null if no other host took part."""

    costs: Costs
    broken: list[str]
    server_clock: ServerClock
    here: JointMeasurement
    across: JointMeasurement | None = None
    missed_peers: str | None = None


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check's result in a sentence; `hint` says what to change."""

    check: str
    severity: Literal["ok", "warn", "bad"] = msgspec.field(name="verdict")
    message: str = msgspec.field(name="told")
    hint: str | None = None


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that fit the filesystem. `notifications`: idle workers may wait for inotify."""

    notifications: bool
    poll_s: float
    longest_poll_s: float
    heartbeat_s: float
    lease_s: float
    why: str


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """`doctor --json`, field by field. `machine` is what this machine can do."""

    schema: int = 1
    root: str
    host: str
    place: Location
    tmpdir: Location
    measured: Measurements | None
    machine: list[MachineFact] = []
    checks: list[CheckResult]
    advice: Recommendation | None
    seconds: float

    @property
    def is_too_short(self) -> bool:
        """Whether the root's heartbeat or lease is shorter than the recommended one."""
        return any(each.check == "lease" and each.severity == "warn" for each in self.checks)

    @property
    def is_usable(self) -> bool:
        """Whether no check forbids a queue here."""
        return all(check.severity != "bad" for check in self.checks)
