"""What `jobspec verify` found out about a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """Whether a statement of a bundle is true."""

    OK = "ok"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One statement that was checked.

    Attributes:
        file: where the statement stands, in the bundle.
    """

    check: str
    outcome: Outcome
    detail: str
    file: str | None = None

    @classmethod
    def ok(cls, check: str, detail: str, file: str | None = None) -> Finding:
        return cls(check=check, outcome=Outcome.OK, detail=detail, file=file)

    @classmethod
    def differs(cls, check: str, detail: str, file: str | None = None) -> Finding:
        return cls(check=check, outcome=Outcome.DIFFERS, detail=detail, file=file)

    @classmethod
    def unknown(cls, check: str, detail: str, file: str | None = None) -> Finding:
        return cls(check=check, outcome=Outcome.UNKNOWN, detail=detail, file=file)

    @classmethod
    def of(cls, check: str, faults: Sequence[str], detail: str, file: str | None) -> Finding:
        """`detail` if there is no fault; otherwise the first one, and how many more."""
        if not faults:
            return cls.ok(check, detail, file)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return cls.differs(check, faults[0] + more, file)


class VerifiedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `verify --json`.

    Attributes:
        fingerprint: the SHA-256 of the bundle's sums.
        verified: nothing differs.
    """

    schema: int = 1
    bundle: str
    job: str
    fingerprint: str
    verified: bool
    findings: list[Finding]
