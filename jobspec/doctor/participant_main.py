"""One more process at a meeting of this host: `python -m jobspec.doctor.participant_main`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jobspec.doctor.participant import Seat
from jobspec.doctor.session import START_S, meet


def main(arguments: Sequence[str]) -> None:
    """Join the meeting that somebody else calls at PLACE for GROUP, as NAME, with PATIENCE_S."""
    place, group, name, patience_s = arguments
    with Seat(Path(place), group, name, float(patience_s)) as seat:
        meet(seat, 2, within_s=START_S, convene=False)


if __name__ == "__main__":
    main(sys.argv[1:])
