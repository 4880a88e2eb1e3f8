"""A phase's log without progress bars and third-party warnings, for people.

From a traceback on, everything is kept: what seems to be noise may explain the error.
"""

from __future__ import annotations

import re
from pathlib import Path

# Of tqdm: `Loading:  40%|████      | 10/25 [00:00<00:01, 9it/s]`, `Writing: 0it [00:00, ?it/s]`.
_BAR = re.compile(rb"[^\r\n|:]*:?[ ]*(?:\d+%\|[^|\r\n]*\|[^\[\r\n]*|\d+it )\[[^\]\r\n]*\][ ]*")
_WARNING = re.compile(rb"\S+\.py:\d+: \w*Warning: |[IW]\d{4} \d\d:\d\d:\d\d\.\d+ ")
_CODE = re.compile(rb"[ ]{2,}\S")  # the line of code that Python prints below its warning
_KNOWN = (b"Failed to load ", b"fatal: not a git repository")
_TRACEBACK = b"Traceback (most recent call last)"


class LogReader:
    """Reads a growing log, at each call what is new.

    Args:
        path: the log.
        raw: leave out nothing.
    """

    def __init__(self, path: Path, *, raw: bool = False) -> None:
        self._path = path
        self._raw = raw
        self._offset = 0
        self._rest = b""
        self._after_warning = False
        self._failing = False

    def read(self, *, last: bool = False) -> bytes:
        """The new text, cut after a line unless it is raw.

        Args:
            last: also an unfinished last line.
        """
        data = self._rest + self._new_bytes()
        if self._raw:
            return data
        *lines, self._rest = data.split(b"\n")
        kept = [line + b"\n" for line in map(self._kept, lines) if line is not None]
        if last:
            rest, self._rest = self._kept(self._rest) if self._rest else None, b""
            kept += [rest] if rest else []
        return b"".join(kept)

    def _new_bytes(self) -> bytes:
        with self._path.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        self._offset += len(data)
        return data

    def _kept(self, line: bytes) -> bytes | None:
        """What to show of a line; None to leave it out."""
        was_warning, self._after_warning = self._after_warning, False
        self._failing = self._failing or line.lstrip().startswith(_TRACEBACK)
        if self._failing:
            return line
        if _WARNING.match(line):
            self._after_warning = True
            return None
        if (was_warning and _CODE.match(line)) or line.startswith(_KNOWN):
            return None
        if b"\r" not in line and not _BAR.search(line):
            return line
        text = _BAR.sub(b"", line).rpartition(b"\r")[2] if _BAR.search(line) else line
        return text if text.strip() else None
