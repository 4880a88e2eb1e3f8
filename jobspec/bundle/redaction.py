"""Replaces secrets, user names, host names and absolute paths by placeholders.

Every text that enters a bundle passes through here. Records, metrics and logs lose all of these.
Samples lose secrets, the root, home directories and the names that are long enough not to be
ordinary words: other paths in a model's answer are its answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from jobspec.spec import secrets

# Accounts that every system has: their names say nothing, and are words.
_COMMON_USERS = frozenset(
    ("root", "nobody", "user", "users", "admin", "ubuntu", "debian", "centos", "ec2-user")
)
# What stands for a replaced text.
PLACEHOLDER = re.compile(r"<(?:root|home|path|user|host-[0-9]+|address|secret)>")
_COMMON_HOSTS = frozenset(("localhost", "localhost.localdomain", "node", "host"))
_LEAST_IN_SAMPLES = 4  # characters of a name that is replaced in samples
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_LEAST_SECRET = 8
# Secrets by what stands before them: `HF_TOKEN=…`, `password: …`, `Authorization: Bearer …`.
_NAMED_SECRET = re.compile(
    r"(\b[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD)=|\bpassword[\"']?\s*[:=]\s*|\bBearer )"
    r"[\"']?[^\s\"',;]{4,}"
)
_END = r"[^\s/'\"`<>|:;,()\[\]{}]"
_PATH = re.compile(
    rf"(?:(?<=-[IL])|(?<![\w/.<>~*\\-]))(?:file://)?(?:/{_END}+)(?:/{_END}*)+", re.ASCII
)
_ADDRESS = re.compile(
    r"(?<![\w.])(?:10\.\d{1,3}|172\.(?:1[6-9]|2\d|3[01])|192\.168|169\.254)(?:\.\d{1,3}){2}(?![\w.])"
)
_WHOLE_PATH = re.compile(r"/[^:\n]*")
_HEX_40 = re.compile(r"[0-9a-f]{40}")


class Redactor:
    """Replaces what identifies people and machines, and counts it by placeholder.

    Args:
        directories: absolute directories with their placeholders, such as `<root>`.
        users: names of people's accounts.
        hosts: names of machines, each of which gets a placeholder of its own.
        environment: its variables that are named like a secret are replaced by value.
        known: texts of 40 hex digits that are no keys, such as commits.
    """

    def __init__(
        self,
        *,
        directories: Mapping[str, str],
        users: Iterable[str] = (),
        hosts: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        known: Iterable[str] = (),
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._known = set(known)
        names = {user: "<user>" for user in users if user and user not in _COMMON_USERS}
        for number, host in enumerate(_machines(hosts), start=1):
            names |= dict.fromkeys((host, host.split(".")[0]), f"<host-{number}>")
        values = {
            value: "<secret>"
            for name, value in (environment or {}).items()
            if _SECRET_NAME.search(name) and len(value) >= _LEAST_SECRET and "/" not in value
        }
        long = {name: each for name, each in names.items() if len(name) >= _LEAST_IN_SAMPLES}
        self._directories = _exact(directories, after=r"(?![\w.-])")
        self._values = _exact(values)
        self._names = _whole_names(names)
        self._long_names = _whole_names(long)

    def text(self, text: str) -> str:
        """A text of a log, a record or a metric without anything that identifies anyone."""
        text = self._secrets(text)
        text = self._replace(_NAMED_SECRET, text, lambda found: f"{found[1]}<secret>")
        text = self._directories(text, self.counts)
        text = self._replace(_PATH, text, lambda found: _placeholder(found[0]))
        text = self._replace(_ADDRESS, text, lambda _: "<address>")
        return self._names(text, self.counts)

    def sample(self, text: str) -> str:
        """A prompt, an answer or a data row, of which only what is certain is replaced."""
        text = self._directories(self._secrets(text), self.counts)
        return self._long_names(text, self.counts)

    def value(self, value: Any, text: Callable[[str], str] | None = None) -> Any:
        """A JSON value whose texts, and keys of objects, are redacted.

        Args:
            text: how; by default as in records.
        """
        if isinstance(value, str):
            return self._field(value) if text is None else text(value)
        if isinstance(value, dict):
            pairs = cast("dict[str, Any]", value).items()
            return {self.value(key, text): self.value(inner, text) for key, inner in pairs}
        if isinstance(value, list):
            return [self.value(inner, text) for inner in cast("list[Any]", value)]
        return value

    def _field(self, value: str) -> str:
        if _HEX_40.fullmatch(value.strip()):
            if value in self._known:
                return value
            self.counts["<secret>"] += 1
            return "<secret>"
        if _WHOLE_PATH.fullmatch(value):  # also one with spaces in its names
            value = self._directories(value, self.counts)
            if value.startswith("/"):
                self.counts["<path>"] += 1
                value = _placeholder(value)
        return self.text(value)

    def _secrets(self, text: str) -> str:
        clean, found = secrets.replace_in(text)
        if found:
            self.counts["<secret>"] += found
        return self._values(clean, self.counts)

    def _replace(
        self, pattern: re.Pattern[str], text: str, by: Callable[[re.Match[str]], str]
    ) -> str:
        def replaced(found: re.Match[str]) -> str:
            new = by(found)
            self.counts["<" + new.partition("<")[2].partition(">")[0] + ">"] += 1
            return new

        return pattern.sub(replaced, text)


def _placeholder(path: str) -> str:
    """`<path>/` and the last name of a path, which says what it was."""
    name = path.rstrip("/").rpartition("/")[2]
    return f"<path>/{name}" if name else "<path>"


def _machines(hosts: Iterable[str]) -> list[str]:
    named = dict.fromkeys(host.strip().lower() for host in hosts if host.strip())
    return [host for host in named if host not in _COMMON_HOSTS]


Replacement = Callable[[str, "Counter[str]"], str]


def _exact(texts: Mapping[str, str], after: str = "") -> Replacement:
    """Replaces texts wherever they stand, the longest first."""
    return _alternatives(texts, "", after, re.NOFLAG)


def _whole_names(names: Mapping[str, str]) -> Replacement:
    """Replaces names that are no part of a longer one, in any case."""
    return _alternatives(names, r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])", re.IGNORECASE)


def _alternatives(
    texts: Mapping[str, str], before: str, after: str, flags: re.RegexFlag
) -> Replacement:
    if not texts:
        return lambda text, counts: text
    longest_first = sorted(texts, key=len, reverse=True)
    pattern = re.compile(f"{before}(?:{'|'.join(map(re.escape, longest_first))}){after}", flags)
    folded = {text.lower(): placeholder for text, placeholder in texts.items()}

    def replace(text: str, counts: Counter[str]) -> str:
        def replaced(found: re.Match[str]) -> str:
            placeholder = folded[found[0].lower()]
            counts[placeholder] += 1
            return placeholder

        return pattern.sub(replaced, text)

    return replace


def forms(directory: Path) -> set[str]:
    """The spellings of a directory: as given and with its links resolved."""
    return {str(directory.absolute()), str(directory.resolve())} - {"/"}
