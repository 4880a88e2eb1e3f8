"""docs/cli.md and --help against the commands there are."""

from __future__ import annotations

import re

import click
import pytest

from jobspec.cli import COMMANDS, SECTIONS, cli
from tests.support.commands import REPOSITORY

TEXT = (REPOSITORY / "docs" / "cli.md").read_text()


def page_of(name: str) -> str:
    """A command's section of the page."""
    return TEXT.split(f"### `jobspec {name}`\n", 1)[1].split("\n##", 1)[0]


def command(name: str) -> click.Command:
    assert isinstance(cli, click.Group)
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def options(name: str) -> set[str]:
    found = command(name)
    parts = [found, *(found.commands.values() if isinstance(found, click.Group) else [])]
    return {text for part in parts for parameter in part.params for text in parameter.opts}


def test_the_page_has_every_command_in_the_order_of_the_help() -> None:
    assert re.findall(r"^### `jobspec (\w+)`$", TEXT, re.MULTILINE) == list(COMMANDS)
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == list(SECTIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_page_have_an_example_and_no_option_that_is_not_there(name: str) -> None:
    found = command(name)
    assert f"jobspec {name}" in (found.help or ""), "an example in --help"
    assert f"\njobspec {name}" in page_of(name), "an example in docs/cli.md"
    # Of other programs' options only a child command's stand in examples.
    own = re.sub(r"'mail .*'|ssh -L \S+|\[\w+\.md\]", "", page_of(name))
    mentioned = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", own))
    assert mentioned <= options(name) | {"--json"}, "only options that it has"
