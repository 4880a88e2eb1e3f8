"""docs/cli.md and `--help` agree with the commands, and `--help` can be followed literally."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from jobspec.benchmarks import registry
from jobspec.cli import COMMANDS, SECTIONS, cli
from tests.support.paths import REPOSITORY

TEXT = (REPOSITORY / "docs" / "cli.md").read_text()


def page_of(name: str) -> str:
    """A command's section of the page."""
    return TEXT.split(f"### `jobspec {name}`\n", 1)[1].split("\n##", 1)[0]


def command(name: str) -> click.Command:
    assert isinstance(cli, click.Group)
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def commands_of(name: str) -> list[click.Command]:
    """A command and its subcommands."""
    top = command(name)
    return [top, *(top.commands.values() if isinstance(top, click.Group) else [])]


def options(name: str) -> set[str]:
    return {text for each in commands_of(name) for param in each.params for text in param.opts}


def described_options(name: str) -> Iterator[tuple[click.Option, str]]:
    """Each visible option and its help text."""
    for each in commands_of(name):
        for param in each.params:
            if isinstance(param, click.Option) and not param.hidden:
                yield param, param.help or ""


def stated_defaults(name: str) -> Iterator[tuple[click.Option, str]]:
    """Each option and the default that its help text states, without the brackets."""
    for option, text in described_options(name):
        for default in re.findall(r"\[default: (.*?)\]", text):
            yield option, default


def examples(help_text: str) -> list[list[str]]:
    """The arguments of each `jobspec …` line in a help text, up to a comment, pipe or redirect."""
    lines = re.findall(r"^ *(?:srun .*?|\*/5 [* ]+)?(jobspec .*)$", help_text, re.MULTILINE)
    commands = [re.split(r" {2,}| && | \| | > ", line)[0] for line in lines]
    return [shlex.split(each)[1:] for each in commands]


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


def needs_command(group: click.Group, rest: list[str]) -> bool:
    return not group.invoke_without_command or bool(rest and rest[0] in group.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_the_help_are_accepted(name: str) -> None:
    for each in commands_of(name):
        written = examples(each.help or "")
        assert written, f"an example in the help of {each.name}"
        for arguments in written:
            assert isinstance(cli, click.Group)
            called, target, rest = cli.resolve_command(click.Context(cli), arguments)
            assert called is not None and target is not None
            while isinstance(target, click.Group) and needs_command(target, rest):
                called, target, rest = target.resolve_command(click.Context(target), rest)
                assert called is not None and target is not None
            target.make_context(called, list(rest))  # a usage error fails the test


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    for option, text in described_options(name):
        explained = re.sub(r"\[default: .*?\]", "", text).strip()
        assert explained, f"{option.opts[0]} of {name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_may_be_repeated_says_so(name: str) -> None:
    for option, text in described_options(name):
        assert option.multiple == ("may be repeated" in text), f"{option.opts[0]} of {name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_stated_defaults_can_be_typed(name: str) -> None:
    known = {each for one in registry.all_benchmarks() for each in (one.name, *one.aliases)}
    for option, default in stated_defaults(name):
        if re.fullmatch(r"[^\s$-][^\s$]*", default):  # a value, not a description or a variable
            context = click.Context(command(name))
            value = option.process_value(context, [default] if option.multiple else default)
            if any(each in default for each in known):
                assert set(value) <= known, f"{option.opts[0]} of {name}"
        else:
            assert not any(re.search(rf"\b{each}\b", default) for each in known), (
                f"{option.opts[0]} of {name} names benchmarks in a form that can't be typed"
            )


def test_the_default_benchmarks_are_stated_wherever_they_can_be_chosen() -> None:
    stated = {name for name in COMMANDS for option, _ in stated_defaults(name)
              if option.name == "benchmarks"}  # fmt: skip
    assert stated == {name for name in COMMANDS if "--benchmarks" in options(name)} != set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns(name: str) -> None:
    for each in commands_of(name):
        context = click.Context(each, info_name=f"jobspec {name}", terminal_width=80)
        too_long = [line for line in each.get_help(context).splitlines() if len(line) > 80]
        assert not too_long


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if isinstance(command(name), click.Group)]
)
def test_no_line_of_a_list_of_subcommands_is_cut_off(name: str) -> None:
    found = command(name)
    text = found.get_help(click.Context(found, terminal_width=80))
    lines = text.partition("Commands:\n")[2].splitlines()
    assert lines and not [line for line in lines if line.endswith("...")]
