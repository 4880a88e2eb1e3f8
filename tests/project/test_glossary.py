"""docs/glossary.md, and the hook that links its terms on the site."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

from tests.support.paths import REPOSITORY


def load_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "link_glossary", REPOSITORY / "docs/link_glossary.py"
    )
    assert spec is not None and spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


HOOK = load_hook()


def test_the_glossary_has_at_most_25_terms_each_with_an_anchor() -> None:
    rows = re.findall(r"^\| (?!term |--- )", HOOK.GLOSSARY.read_text(), re.MULTILINE)
    assert len(rows) == len(HOOK.terms()) <= 25


def test_the_first_use_of_a_term_is_linked() -> None:
    linked = HOOK.link_terms("Workers send heartbeats.\n\nA worker may die.", "glossary.md")
    assert linked.startswith(
        "[Workers](glossary.md#worker) send [heartbeats](glossary.md#heartbeat)."
    )
    assert linked.endswith("A worker may die.")


def test_the_longest_term_is_linked() -> None:
    linked = HOOK.link_terms("one array element", "../glossary.md")
    assert linked == "one [array element](../glossary.md#array-element)"


def test_code_headings_tables_and_links_are_left_alone() -> None:
    for text in (
        "# A job",
        "| job | lease |",
        "```text\nthe root\n```",
        "`job`",
        "[a job](x.md)",
        "![the job](job.png)",
        "jobs/<job>/spec.json",
        "without root",
    ):
        assert HOOK.link_terms(text, "glossary.md") == text


def test_a_page_that_links_a_term_itself_keeps_its_link() -> None:
    text = "A [job](glossary.md#job) and a job."
    assert HOOK.link_terms(text, "glossary.md") == text
