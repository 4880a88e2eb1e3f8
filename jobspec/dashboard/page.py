"""Put the page together: one HTML file that needs no network.

The document is JSON in a script element, and the files of `assets/` show it in the browser. They
make every element by the DOM's own functions, so no text of a spec or a model becomes markup.
"""

from __future__ import annotations

import html
from importlib import resources

import msgspec

from jobspec.dashboard.document import PageDocument

# In this order they are one script.
_SCRIPTS = (
    *("dom", "words", "store", "chart", "parts"),
    *("now", "runs", "compare", "run", "samples", "live", "main"),
)


def render(document: PageDocument) -> str:
    """The whole page."""
    script = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    values = {
        "title": html.escape(document.queue.root),
        "connect": "'self'" if document.live else "'none'",
        "style": _asset("style.css"),
        "document": embed(document),
        "script": f'"use strict";\n(() => {{\n{script}\n}})();',
    }
    page = _asset("page.html")
    for name, value in values.items():
        before, marker, after = page.partition(f"<!--{name}-->")
        assert marker, name
        page = before + value + after
    return page


def embed(document: PageDocument) -> str:
    """The document's JSON, escaped so that it cannot end its script element."""
    data = msgspec.json.encode(document).decode()
    for letter in "<>&":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    return data


def _asset(name: str) -> str:
    return resources.files("jobspec.dashboard").joinpath(f"assets/{name}").read_text("utf-8")
