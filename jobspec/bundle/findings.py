"""What `jobspec verify` found out about a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec


class BundleFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One statement that was checked.

    Attributes:
        file: where the statement stands, in the bundle.
    """

    check: str
    outcome: Literal["ok", "differs", "unknown"]
    detail: str
    file: str | None = None

    @classmethod
    def ok(cls, check: str, detail: str, file: str | None = None) -> BundleFinding:
        return cls(check=check, outcome="ok", detail=detail, file=file)

    @classmethod
    def differs(cls, check: str, detail: str, file: str | None = None) -> BundleFinding:
        return cls(check=check, outcome="differs", detail=detail, file=file)

    @classmethod
    def unknown(cls, check: str, detail: str, file: str | None = None) -> BundleFinding:
        return cls(check=check, outcome="unknown", detail=detail, file=file)

    @classmethod
    def of(cls, check: str, faults: Sequence[str], detail: str, file: str | None) -> BundleFinding:
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
    findings: list[BundleFinding]
