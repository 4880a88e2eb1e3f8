"""The rules of docs/design.md, "Rooms": who may import whom, and where a fact may stand.

Each rule is a function that yields violations, as strings a reader can look up. A rule has a test
that it holds for the code, and one that it finds a violation in code written to break it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import pytest

from tests.support.paths import REPOSITORY
from tests.support.source_modules import MODULES, Module, Modules, imports, room_of

# Lowest first: a room imports from rooms before it, never from rooms after it. A module directly
# below the package counts as a room. A new room fails the test until it is placed here.
JOBSPEC_ROOMS = (
    *(
        "errors",
        "version",
        "storage",
        "records",
        "readers",
        "benchmarks",
        "spec",
        "models",
        "queue",
        "worker_command",
    ),
    *("estimates", "checks", "monitoring", "results", "maintenance", "bundle", "cluster"),
    *("relay", "dashboard", "doctor", "cli", "__main__"),
)
WORKER_ROOMS = (
    *("imports", "thinking", "program", "host", "process", "phase", "answer", "launch", "rows"),
    *("benchmark_download", "contamination", "data", "preview"),
    *("checkpoints", "kernels", "packing", "training", "inference", "samples"),
    *("lm_eval_tasks", "grading", "evaluation"),
    *("phases", "supervisor"),
    *("fetch", "demo", "audit", "__main__"),
)
# What jobspec may import from outside the standard library, and in which room.
ALLOWED = {
    "msgspec": "jobspec",
    "click": "jobspec.cli",
    "rich": "jobspec.cli",
    "watchfiles": "jobspec",
    "wandb": "jobspec.relay.sink_wandb",
    "tensorboard": "jobspec.relay.sink_tensorboard",
    "trackio": "jobspec.relay.sink_trackio",
}
TORCH_ROOMS = ("training", "packing", "kernels", "inference", "evaluation")
TORCH_MODULES = (
    *("worker.checkpoints.distributed", "worker.checkpoints.convert", "worker.demo"),
    "worker.audit",
    "worker.imports.lean",  # it changes how torch is imported
)
NOT_FOR_SUPERVISOR = (
    *("worker.training", "worker.inference", "worker.samples", "worker.evaluation"),
    "worker.lm_eval_tasks",
)
MOST_MODULES = 18
PATH_METHODS = ("with_name", "joinpath", "glob", "rglob")


Rule = Callable[[Modules], Iterator[str]]


def jobspec_is_light(modules: Modules) -> Iterator[str]:
    """Rule 1: jobspec imports no worker and nothing heavy."""
    for module in modules.values():
        for name in imports(module, modules) if module.package == "jobspec" else ():
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top == "jobspec":
                continue
            if not module.name.startswith(ALLOWED.get(top, "nobody")):
                yield f"{module.name} imports {name}"


def _imports_go_down(modules: Modules, package: str, rooms: tuple[str, ...]) -> Iterator[str]:
    for module in modules.values():
        if module.package != package or not module.room:
            continue
        if module.room not in rooms:
            yield f"{module.name} is in a room that has no place in the list"
            continue
        for name in set(imports(module, modules)):
            room = room_of(name)
            if name.split(".")[0] != package or room in ("", module.room):
                continue
            if room not in rooms or rooms.index(room) > rooms.index(module.room):
                yield f"{module.name} imports {name}"


def jobspec_imports_go_down(modules: Modules) -> Iterator[str]:
    """Rule 2: one ordered list of rooms, every room on it, imports go down only."""
    yield from _imports_go_down(modules, "jobspec", JOBSPEC_ROOMS)


def worker_imports_go_down(modules: Modules) -> Iterator[str]:
    """Rule 3: the same for the worker; entry modules and the supervisor stand apart."""
    yield from _imports_go_down(modules, "worker", WORKER_ROOMS)
    entries = entry_modules(modules)
    for module in modules.values():
        for name in set(imports(module, modules)):
            if name in entries and name != module.name:
                yield f"{module.name} imports {name}, the entry module of a phase"
            if module.room == "supervisor" and name.startswith(NOT_FOR_SUPERVISOR):
                yield f"{module.name} imports {name}"
            if module.name.startswith("worker.process") and not _process_may_import(name):
                yield f"{module.name} imports {name}"


def _process_may_import(name: str) -> bool:
    ours = ("worker.process", "worker.host", "jobspec.records.exit_codes", "jobspec.storage.layout")
    return name.startswith(ours) or name.split(".")[0] in sys.stdlib_module_names


def entry_modules(modules: Modules) -> set[str]:
    """The modules that worker/phases.py starts, one for each phase."""
    table = modules["worker.phases"]
    named = {text for _, text in table.strings() if text in modules}
    return {name for name in named if name.startswith("worker.") and ".process." not in name}


def torch_stays_in_its_rooms(modules: Modules) -> Iterator[str]:
    """Rule 4: torch only in training, kernels, inference, evaluation and two of checkpoints."""
    for module in modules.values():
        if module.room in TORCH_ROOMS or module.name.startswith(TORCH_MODULES):
            continue
        for name in set(imports(module, modules)):
            if name.split(".")[0] == "torch":
                yield f"{module.name} imports {name}"


def _names_in_layout(modules: Modules) -> set[str]:
    names = {text for _, text in modules["jobspec.storage.layout"].strings()}
    return {name for name in names if re.fullmatch(r"[A-Za-z][\w.-]*", name)}


def _path_parts(module: Module) -> Iterator[tuple[int, str]]:
    """Strings that are joined to a path: `path / "name"`, `with_name("name")` and the like."""
    for node in ast.walk(module.tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.right]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in PATH_METHODS:
            parts = node.args
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def layout_spells_file_names(modules: Modules) -> Iterator[str]:
    """Rule 5: only storage.layout spells the name of a file or directory of a root."""
    names = _names_in_layout(modules)
    for module in modules.values():
        if module.name == "jobspec.storage.layout":
            continue
        for line, part in _path_parts(module):
            if names & set(part.split("/")):
                yield f"{module.name}:{line} spells `{part}`"


def benchmarks_spell_benchmark_names(modules: Modules) -> Iterator[str]:
    """Rule 5: only the room `benchmarks` spells a benchmark's name."""
    spelled = re.compile(
        r"(?<![\w-])(aime\d*|minerva_math500|math500|gpqa\w*)(?![\w-])", re.IGNORECASE
    )
    for module in modules.values():
        if module.package == "jobspec" and module.room == "benchmarks":
            continue
        for line, text in module.strings():
            if (found := spelled.search(text)) is not None:
                yield f"{module.name}:{line} spells `{found.group()}`"


def cluster_and_host_spell_slurm(modules: Modules) -> Iterator[str]:
    """Rule 5: only cluster and host spell Slurm's variables and commands."""
    spelled = re.compile(r"SLURM_\w+|SBATCH_\w+|^(squeue|sacct|scontrol|sbatch|scancel|srun)$")
    for module in modules.values():
        if (module.package, module.room) in (("jobspec", "cluster"), ("worker", "host")):
            continue
        for line, text in module.strings():
            if (found := spelled.search(text)) is not None:
                yield f"{module.name}:{line} spells `{found.group()}`"


def phases_are_named_once(modules: Modules) -> Iterator[str]:
    """Rule 6: nothing is decided by comparing with a phase's name."""
    names = {"prepare", "convert", "train", "eval"}
    for module in modules.values():
        for node in ast.walk(module.tree):
            parts: list[ast.AST] = []
            if isinstance(node, ast.Compare):
                parts = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
            elif isinstance(node, ast.MatchValue):
                parts = [node.value]
            found = {part.value for part in parts if isinstance(part, ast.Constant)} & names
            if found:
                yield f"{module.name}:{getattr(node, 'lineno', 0)} compares with {sorted(found)}"


def rooms_are_small_and_names_unique(modules: Modules) -> Iterator[str]:
    """Rule 7: at most 18 modules a room, no basename twice, no public class name twice."""
    sizes: Counter[tuple[str, str]] = Counter()
    basenames: dict[tuple[str, str], list[str]] = defaultdict(list)
    classes: dict[str, list[str]] = defaultdict(list)
    packages = {name.rsplit(".", 1)[0] for name in modules}
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(module.name)
        if module.name in packages or module.name.startswith("jobspec.cli"):
            continue
        sizes[module.package, module.room] += 1
        basenames[module.package, module.name.rsplit(".", 1)[1]].append(module.name)
    for (package, room), n in sizes.items():
        if n > MOST_MODULES:
            yield f"{package}.{room} has {n} modules"
    for (package, name), places in basenames.items():
        if len(places) > 1:
            yield f"{package} has {len(places)} modules called {name}"
    for name, places in classes.items():
        if len(places) > 1:
            yield f"class {name} stands in {', '.join(sorted(places)[:2])}"


_POSSESSIVE = re.compile(r"\)[*+?]\+|\)\{\d*,?\d*\}\+|\(\?>")


def no_group_is_possessive(modules: Modules) -> Iterator[str]:
    """Rule 8: Python before 3.11.5 matches `(...)*+` wrongly (python/cpython#106052)."""
    for module in modules.values():
        for line, text in module.strings():
            if (found := _POSSESSIVE.search(text)) is not None:
                yield f"{module.name}:{line} has the possessive group `{found.group()}`"


RULES: tuple[Rule, ...] = (
    jobspec_is_light,
    jobspec_imports_go_down,
    worker_imports_go_down,
    torch_stays_in_its_rooms,
    layout_spells_file_names,
    benchmarks_spell_benchmark_names,
    cluster_and_host_spell_slurm,
    phases_are_named_once,
    rooms_are_small_and_names_unique,
    no_group_is_possessive,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_holds(rule: Rule) -> None:
    assert list(rule(MODULES)) == []


# Code that breaks each rule, and what the rule says of it: a module's name and its text.
BROKEN: dict[Rule, tuple[str, str, str]] = {
    jobspec_is_light: ("jobspec.queue.x", "import torch", "imports torch"),
    jobspec_imports_go_down: (
        "jobspec.storage.x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jobspec.cli import show",
        "imports jobspec.cli.show",
    ),
    worker_imports_go_down: (
        "worker.supervisor.x",
        "def f():\n    from worker.training import loss",
        "imports worker.training.loss",
    ),
    torch_stays_in_its_rooms: ("worker.data.x", "from torch import nn", "imports torch"),
    layout_spells_file_names: (
        "worker.data.x",
        'def f(root):\n    return root / "queue" / "workers"',
        "spells `workers`",
    ),
    benchmarks_spell_benchmark_names: ("worker.data.x", 'NAME = "aime24"', "spells `aime24`"),
    cluster_and_host_spell_slurm: ("worker.data.x", 'KEY = "SLURM_JOB_ID"', "SLURM_JOB_ID"),
    phases_are_named_once: ("worker.data.x", 'f = phase == "train"', "compares with ['train']"),
    rooms_are_small_and_names_unique: ("worker.data.x", "class Queue: ...", "class Queue "),
    no_group_is_possessive: ("worker.data.x", 'P = r"(?:a|b)*+c"', "possessive"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_code_that_breaks_it(rule: Rule) -> None:
    name, text, expected = BROKEN[rule]
    broken = {**MODULES, name: Module(name, text)}
    new = set(rule(broken)) - set(rule(MODULES))
    assert any(expected in violation for violation in new)


def test_a_new_room_fails_until_it_is_placed() -> None:
    broken = {**MODULES, "jobspec.attic.x": Module("jobspec.attic.x", "")}
    assert "jobspec.attic.x is in a room that has no place in the list" in list(
        jobspec_imports_go_down(broken)
    )


def test_the_entry_module_of_a_phase_is_imported_by_nobody() -> None:
    assert len(entry_modules(MODULES)) >= 4
    entry = min(entry_modules(MODULES))
    broken = {**MODULES, "worker.demo.x": Module("worker.demo.x", f"import {entry}")}
    assert any("the entry module" in violation for violation in worker_imports_go_down(broken))


def test_a_room_of_nineteen_modules_and_a_basename_twice_are_found() -> None:
    many = {f"jobspec.storage.x{n}": Module(f"jobspec.storage.x{n}", "") for n in range(19)}
    twice = {"jobspec.storage.claim": Module("jobspec.storage.claim", "")}
    found = list(rooms_are_small_and_names_unique({**MODULES, **many, **twice}))
    assert any(violation.startswith("jobspec.storage has ") for violation in found)
    assert "jobspec has 2 modules called claim" in found


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    def at_import(module: Module) -> Iterator[str]:
        nodes: list[ast.AST] = list(module.tree.body)
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            nodes += ast.iter_child_nodes(node)
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in MODULES else node.module

    left = {name: set(at_import(module)) & MODULES.keys() for name, module in MODULES.items()}
    while left:
        free = [name for name, needs in left.items() if not needs & left.keys() - {name}]
        assert free, f"in a circle, or behind one: {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in free}


WRITES = {"write_bytes", "write_text", "rename", "unlink", "mkdir", "rmdir", "symlink_to", "touch"}
WRITERS = ("jobspec.storage.fs", "jobspec.storage.tempfiles")


def _queue_modules() -> set[str]:
    """The queue and every module of ours that it leads to."""
    seen, left = set[str](), ["jobspec.queue.queue"]
    while left:
        name = left.pop()
        if name in MODULES and name not in seen:
            seen.add(name)
            left += imports(MODULES[name], MODULES)
    return seen


def test_only_storage_writes_queue_state() -> None:
    modules = _queue_modules() - set(WRITERS)
    assert len(modules) > 10
    for name in modules:
        for node in ast.walk(MODULES[name].tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                by_fs = isinstance(node.func.value, ast.Name) and node.func.value.id == "fs"
                assert by_fs or node.func.attr not in WRITES, f"{name}:{node.lineno}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", f"{name}:{node.lineno}"


def test_no_benchmark_hides_a_standard_module() -> None:
    """A script started by its path finds the modules beside it first."""
    names = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")}
    assert len(names) > 10
    assert not names & sys.stdlib_module_names
