"""README and docs/ against the repository: files, tests, commands and fields that they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from jobspec.cli import ALIASES, COMMANDS, cli
from jobspec.spec import parsing
from tests.support.docs import PAGES, blocks, prose
from tests.support.paths import REPOSITORY
from worker.__main__ import main as worker_command

LANGUAGES = {"sh", "console", "text", "json", "python"}
# Where a file may be that is named without its directory.
TREES = ("jobspec", "jobspec/html", "jobspec/cluster", "worker", "benchmarks", "docs", "slurm")
TESTS = sorted((REPOSITORY / "tests").rglob("test_*.py"))
NAMES = {
    name
    for path in TESTS
    for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def inline(page: Path) -> list[str]:
    """What stands in backticks in a page's prose, line breaks made spaces."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


@each_page
def test_blocks_say_what_they_are(page: Path) -> None:
    wrong = [block.line for block in blocks(page) if block.language not in LANGUAGES]
    assert wrong == [], "sh: commands; console: `$ ` and what was printed; text: everything else"


def test_the_readme_reaches_the_readers_own_data_early() -> None:
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    first = next(n for n, line in enumerate(lines, 1) if line.startswith("jobspec new "))
    assert first <= 45
    block = next(block for block in blocks(REPOSITORY / "README.md") if block.line == first - 1)
    assert len(block.body) <= 7, "commands of the first run"


def test_the_docs_are_short() -> None:
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    assert sum(len(page.read_text().split()) for page in pages) < 36_000


@each_page
def test_files_that_are_named_are_there(page: Path) -> None:
    named = set(
        re.findall(r"(?<![\w/<>*.$-])(?:[\w-]+/)*[\w-]+\.(?:py|sbatch)\b", page.read_text())
    )
    places = [REPOSITORY, REPOSITORY / "tests", *(REPOSITORY / name for name in TREES)]
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert missing == set()


@each_page
def test_tests_that_are_named_are_there(page: Path) -> None:
    """`test_x_…` is the beginning of a name; a file may be named with or without `.py`."""
    files = {path.stem for path in TESTS}
    named = re.findall(r"\btest_\w+(?:…)?", page.read_text())
    missing = {
        name
        for name in named
        if name.removesuffix("…") not in NAMES | files
        and not (name.endswith("…") and any(real.startswith(name[:-1]) for real in NAMES))
    }
    assert missing == set()


def options(command: click.Command) -> set[str]:
    parts = [command, *(command.commands.values() if isinstance(command, click.Group) else [])]
    found = {text for part in parts for option in part.params for text in option.opts}
    return found | {"--help", "--version", "--root", "--json"}


def unknown(line: str) -> list[str]:
    """Commands and options of a line that there are not."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a piece of a line
        words = line.split()
    if words[0] == "jobspec-worker":
        known = options(worker_command)
    elif len(words) == 1 or not words[1].islower() or not words[1].isalpha():
        return []
    elif (name := ALIASES.get(words[1], words[1])) not in COMMANDS:
        return [name]
    else:
        found = cli.get_command(click.Context(cli), name) if isinstance(cli, click.Group) else None
        assert found is not None
        known = options(found)
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return [word for word in given if word not in known]


@each_page
def test_commands_in_the_text_are_there_with_their_options(page: Path) -> None:
    lines = [code for code in inline(page) if re.match(r"jobspec(-worker)? ", code)]
    lines += [
        line[line.index("jobspec ") :]
        for block in blocks(page)
        if block.language == "text"
        for line in block.body
        if re.search(r"(?<![\w/-])(?<!\d )jobspec [a-z]+ --?[a-z]", line)
    ]
    assert [(line, wrong) for line in lines if (wrong := unknown(line))] == []


def spelled(schema: dict[str, Any]) -> str:
    """A JSON Schema's limits as docs/specs.md spells them; empty where the page may say more."""
    parts = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    if len(parts) == 1 and "enum" in parts[0]:
        return ", ".join(map(str, parts[0]["enum"]))
    if len(parts) != 1 or parts[0].get("type") not in ("integer", "number"):
        return ""
    (part,) = parts
    low, high = part.get("minimum"), part.get("maximum")
    opening = f"({part['exclusiveMinimum']:g}" if low is None else f"[{low:g}"
    closing = f"{part['exclusiveMaximum']})" if high is None else f"{high}]"
    return f"{opening}, {closing}"


@pytest.mark.parametrize("struct", list(parsing.json_schema()["$defs"]))
def test_every_field_of_a_spec_is_documented_with_default_and_limits(struct: str) -> None:
    text = (REPOSITORY / "docs/specs.md").read_text()
    section = text.split(f"## {struct}\n", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|", section, re.MULTILINE)
    rows = [(name, default.strip(), limits.strip()) for name, default, limits in lines]
    fields = parsing.json_schema()["$defs"][struct]["properties"]
    assert [name for name, _, _ in rows] == list(fields)
    for name, default, limits in rows:
        told = f"`{_json(fields[name])}`" if "default" in fields[name] else "none"
        assert default in (told, "below"), name
        wanted = spelled(fields[name])
        numbers = re.sub(r"1e(\d)", lambda found: "1" + "0" * int(found[1]), limits)
        assert not wanted or numbers == wanted.replace(".0]", "]"), name


def _json(field: dict[str, Any]) -> str:
    default = field["default"]
    return str(default) if isinstance(default, float) else msgspec.json.encode(default).decode()
