r"""Reading `\boxed{…}`, in which most benchmarks of mathematics ask for the answer."""

from __future__ import annotations

import re


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, `\boxed 7` or `\fbox{…}`; None if cut off or absent."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].split("boxed" if text.startswith("\\boxed", start) else "fbox", 1)[1]
    body = rest.lstrip()
    if body.startswith("{"):
        end = _closing_brace(body)
        return None if end is None else body[1:end]
    bare = re.match(r"[^\s$\\{},.;:!?)\]]+", body)
    return bare.group(0) if bare else None


def _closing_brace(text: str) -> int | None:
    """Where the brace that opens `text` closes; escaped braces do not count."""
    depth = 0
    escaped = False
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return position
    return None
