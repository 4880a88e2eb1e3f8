"""The source files of both packages, parsed: what the tests of the layering look at."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tests.support.paths import REPOSITORY


def room_of(name: str) -> str:
    """`queue` for `jobspec.queue.claim`; the package itself is ``."""
    return [*name.split("."), ""][1]


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name and its text."""

    name: str
    text: str

    @property
    def room(self) -> str:
        return room_of(self.name)

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def docstrings(self) -> set[int]:
        """`id` of each constant that is a docstring."""
        return {
            id(node.body[0].value)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }

    def strings(self) -> Iterator[tuple[int, str]]:
        """Line and value of each string that is not a docstring."""
        for node in ast.walk(self.tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in self.docstrings:
                yield node.lineno, text


Modules = Mapping[str, Module]


def read_modules() -> Modules:
    found: dict[str, Module] = {}
    for package in ("jobspec", "worker"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            found[name] = Module(name, path.read_text())
    return found


MODULES = read_modules()


def imports(module: Module, modules: Modules) -> Iterator[str]:
    """Every module that this one imports, wherever in the file; TYPE_CHECKING included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module
