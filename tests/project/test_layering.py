"""Who imports whom: the layers of docs/design.md, on the source and in a running process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from jobspec.spec import builder
from tests.support.commands import REPOSITORY, base_spec, environment

SOURCES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("jobspec", "worker")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}
JOBSPEC = [name for name in SOURCES if name.split(".")[0] == "jobspec"]
HEAVY = {"torch", "transformers", "wandb", "deepspeed", "trl", "datasets", "lm_eval", "vllm"}
# What jobspec may import from outside the standard library, and who may.
ALLOWED = {
    "msgspec": "jobspec",
    "click": "jobspec.cli",
    "rich": "jobspec.cli",
    "watchfiles": "jobspec",
    "wandb": "jobspec.relay.client_main",
    "plotly": "jobspec.dashboard.page",
    "jinja2": "jobspec.dashboard.page",
    "markupsafe": "jobspec.dashboard.page",
}
# What stands above the queue, lowest first: each knows those before it, the queue knows none.
ABOVE_QUEUE = (
    *("metrics", "relay", "rows", "new", "check", "live", "workers", "report", "spending", "space"),
    *("results", "html", "serve", "doctor", "cluster", "cli"),
)
WRITES = {"write_bytes", "write_text", "rename", "unlink", "mkdir", "rmdir", "symlink_to", "touch"}
ALL_WRITERS_OF_STATE = ("jobspec.storage.fs", "jobspec.storage.tempfiles")


def imports(name: str, *, at_import: bool = False) -> Iterator[str]:
    """The modules a source file imports; with `at_import` only what runs when it is imported."""
    nodes = list(ast.parse(SOURCES[name].read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # for the type checker alone
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        nodes += list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in SOURCES else node.module


def closure(name: str) -> set[str]:
    """Every module of ours that importing `name` may lead to."""
    seen, left = set[str](), [name]
    while left:
        here = left.pop()
        if here not in seen:
            seen.add(here)
            left += [each for each in imports(here) if each in SOURCES]
    return seen


def test_there_is_something_to_look_at() -> None:
    assert "jobspec.spec.schema" in list(imports("jobspec.queue.queue"))
    assert "jobspec.storage.fs" in closure("jobspec.cli.status")


@pytest.mark.parametrize("name", JOBSPEC)
def test_jobspec_imports_neither_the_worker_nor_anything_heavy(name: str) -> None:
    for imported in imports(name):
        top = imported.split(".")[0]
        if top in sys.stdlib_module_names or top == "jobspec":
            continue
        assert name.startswith(ALLOWED.get(top, "nobody")), f"{name} imports {imported}"


@pytest.mark.parametrize(
    ("name", "knows"),
    [
        ("jobspec.errors", set[str]()),
        ("jobspec.storage.layout", set[str]()),
        ("jobspec.spec.schema", {"jobspec.errors"}),
        ("jobspec.records.base", {"jobspec.errors"}),
    ],
)
def test_the_lowest_layers_know_little(name: str, knows: set[str]) -> None:
    assert {each for each in imports(name) if each in SOURCES} <= knows


def test_fs_knows_no_queue() -> None:
    assert not {"jobspec.queue.queue", "jobspec.spec.schema", "jobspec.records.base"} & closure(
        "jobspec.storage.fs"
    )


def test_the_queue_knows_nothing_above_it() -> None:
    above = {name for name in JOBSPEC if name.split(".")[1:2] and name.split(".")[1] in ABOVE_QUEUE}
    assert len(above) > 10
    assert not above & closure("jobspec.queue.queue")


@pytest.mark.parametrize("name", ABOVE_QUEUE[:-1])
def test_above_the_queue_the_order_holds(name: str) -> None:
    above = {f"jobspec.{later}" for later in ABOVE_QUEUE[ABOVE_QUEUE.index(name) + 1 :]}
    if (module := f"jobspec.{name}") in SOURCES:
        assert not above & set(imports(module))


def test_the_relay_stands_above_the_queue_and_below_the_reports() -> None:
    later = ABOVE_QUEUE[ABOVE_QUEUE.index("relay") + 1 :]
    relay = [name for name in JOBSPEC if name.startswith("jobspec.relay")]
    assert len(relay) > 8
    for name in relay:
        assert not {f"jobspec.{above}" for above in later} & set(imports(name)), name
    for name in JOBSPEC:
        if not name.startswith(("jobspec.relay", "jobspec.cli.relay")):
            assert not any(each.startswith("jobspec.relay") for each in imports(name)), name


def test_nobody_but_the_command_line_imports_the_command_line() -> None:
    for name in JOBSPEC:
        if not name.startswith("jobspec.cli"):
            assert not any(each.startswith("jobspec.cli") for each in imports(name)), name


def test_nothing_imports_in_a_circle() -> None:
    graph = {name: {i for i in imports(name, at_import=True) if i in SOURCES} for name in SOURCES}
    left = dict(graph)
    while left:
        free = [name for name, needs in left.items() if not needs & left.keys() - {name}]
        assert free, f"in a circle, or behind one: {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in free}


def test_only_fs_writes_queue_state() -> None:
    for name in closure("jobspec.queue.queue") - set(ALL_WRITERS_OF_STATE):
        for node in ast.walk(ast.parse(SOURCES[name].read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                by_fs = isinstance(node.func.value, ast.Name) and node.func.value.id == "fs"
                assert by_fs or node.func.attr not in WRITES, f"{name}:{node.lineno}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", f"{name}:{node.lineno}"


def loaded(*args: str) -> set[str]:
    """Top-level modules, and those of ours, that a real command has in sys.modules at its end."""
    code = (
        "import sys, json\nfrom jobspec.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Queue.create(tmp_path / "root").enqueue(base_spec())
    return tmp_path / "root"


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("results",), ("workers",)])
def test_looking_imports_nothing_heavy(root: Path, command: tuple[str, ...]) -> None:
    found = loaded(*command, "--root", str(root))
    assert "jobspec.queue.queue" in found
    assert not found & (HEAVY | {"rich", "worker", "numpy"})


def test_enqueueing_imports_nothing_heavy(root: Path, tmp_path: Path) -> None:
    ((spec, _),) = builder.write([base_spec(notes="another")], tmp_path)
    found = loaded("enqueue", str(spec), "--root", str(root))
    assert not found & (HEAVY | {"worker", "numpy"})


def test_help_imports_click_and_nothing_of_ours_but_its_table() -> None:
    found = loaded("--help")
    ours = {name for name in found if name.startswith("jobspec")}
    assert ours == {"jobspec", "jobspec.cli", "jobspec.cli.common"}
    assert not found & (HEAVY | {"rich", "worker", "msgspec"})


def test_the_workers_loop_imports_nothing_heavy() -> None:
    code = "import sys, json, worker.__main__\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    found = set(json.loads(done.stdout))
    assert "worker.supervisor.worker" in found and not found & HEAVY


def test_no_benchmark_hides_a_standard_module() -> None:
    """Run by its path, as a user's script is, one of them finds its neighbours first."""
    names = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")}
    assert len(names) > 10
    assert not names & sys.stdlib_module_names
