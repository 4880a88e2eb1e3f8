"""The site's pages that stand in the repository's root, where the git host shows them.

A hook of MkDocs. Links are written for the git host; here those between the root and docs/ are made
to fit, before MkDocs looks whether they lead anywhere. Files that are no page of the site can't be
linked to: their names stand in backticks, and `tests/project/test_docs.py` looks whether they
exist.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_LOADED = re.compile(r"<(?:script|img|link rel=.stylesheet.)\b[^>]* (?:src|href)=.https?://[^ >]*")
_LINK = re.compile(r"(?<=\]\()(?:\.\./|docs/)?([\w./-]+\.\w+)")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add them to what is in docs/."""
    root = Path(config.config_file_path).parent
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(root / name).read_text()))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links at the site's pages."""
    return _LINK.sub(lambda link: PAGES.get(link[1], link[1]), markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Refuse a page that loads anything from another host: readers may have no network."""
    found = _LOADED.search(output)
    if found is not None:
        raise PluginError(f"the page loads something from elsewhere: {found[0]}")
    return output
