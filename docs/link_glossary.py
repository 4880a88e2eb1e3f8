"""Link the first use of each glossary term on a page of the site to its line in the glossary.

A hook of MkDocs. Headings, tables, code and existing links are left alone.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

GLOSSARY = Path(__file__).parent / "glossary.md"
# Pages that are lists of terms or of changes, or about the code instead of the program.
UNLINKED = {"glossary.md", "changelog.md", "contributing.md", "json.md"}
# "the commit" of the code and a root password are other things.
_OTHER_MEANINGS = {
    "commit": r"commit(?!,| that|ed by git)",
    "root": r"(?<!without )(?<!as )root(?! access)",
    "claim": r"claim(?!s about)",
    "hold": r"(?<=on )hold",
}
_FENCE = re.compile(r"^ *(```|~~~)")
_UNTOUCHED = re.compile(r"`[^`]*`|!?\[[^\]]*\]\([^)]*\)|!?\[[^\]]*\](?:\[[^\]]*\])?|<[^>]+>")


def terms() -> dict[str, str]:
    """Every term of the glossary and its anchor."""
    return {
        term: anchor
        for anchor, term in re.findall(
            r'^\| <a id="([\w-]+)"></a>(.+?) \|', GLOSSARY.read_text(), re.MULTILINE
        )
    }


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Link a page of the site."""
    source = page.file.src_uri
    if source in UNLINKED:
        return markdown
    return link_terms(markdown, posixpath.relpath("glossary.md", posixpath.dirname(source) or "."))


def link_terms(markdown: str, glossary: str) -> str:
    """The text with the first use of every term linked."""
    missing = {
        term: anchor for term, anchor in terms().items() if f"glossary.md#{anchor}" not in markdown
    }
    lines, fenced = markdown.split("\n"), False
    for number, line in enumerate(lines):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and not line.startswith(("#", "|", "    ", "- `", "<", "[")):
            lines[number] = _link(line, missing, glossary)
    return "\n".join(lines)


def _link(line: str, missing: dict[str, str], glossary: str) -> str:
    for term in sorted(missing, key=len, reverse=True):
        pattern = _OTHER_MEANINGS.get(term, re.escape(term))
        untouched = [match.span() for match in _UNTOUCHED.finditer(line)]
        for use in re.finditer(rf"(?<![\w./-]){pattern}s?(?![\w/-])", line, re.IGNORECASE):
            if not any(start <= use.start() < end for start, end in untouched):
                target = f"[{use[0]}]({glossary}#{missing.pop(term)})"
                line = line[: use.start()] + target + line[use.end() :]
                break
    return line
