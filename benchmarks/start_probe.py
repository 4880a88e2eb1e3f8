"""Marks in a phase's processes: when each part of their start was over, and what it cost.

benchmarks/start.py lets Python run `install()` as it starts. Functions of the phases are wrapped as
their modules are imported; nothing in the product knows of it. A mark is a line of JSON in a file
of the process's own: its name, the Unix time, and the process's processor seconds so far.
"""

from __future__ import annotations

import atexit
import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

DIRECTORY = "JOBSPEC_BENCH_MARKS"


def install() -> None:
    """Mark the interpreter's own start, and watch for the modules that do the rest."""
    _mark("interpreter", started=_process_started())
    sys.meta_path.insert(0, _Finder())
    atexit.register(lambda: _mark("exit", modules=sorted(sys.modules)))


def _mark(name: str, **facts: Any) -> None:
    used = os.times()
    argv = sys.orig_argv
    module = argv[argv.index("-m") + 1] if "-m" in argv else Path(argv[-1]).name
    line = {
        "module": module,
        "rank": int(os.environ.get("RANK", "0")),
        "mark": name,
        "time": time.time(),
        "cpu_s": used.user + used.system,
        **facts,
    }
    path = Path(os.environ[DIRECTORY]) / f"{os.getpid()}-{_process_started():.2f}.jsonl"
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def _process_started() -> float:
    """Unix time at which this process was forked (proc_pid_stat(5), field 22)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _once(name: str, function: Callable[..., Any], *, before: bool = False) -> Callable[..., Any]:
    """The function, with a mark after (or before) its first call."""
    done = False

    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        first, done = not done, True
        if first and before:
            _mark(name)
        found = function(*args, **kwargs)
        if first and not before:
            _mark(name)
        return found

    return marked


def _wrap_phase(module: ModuleType) -> None:
    run = module.run

    def marked(name: str, body: Callable[[Any], int | None]) -> None:
        _mark("imports")
        run(name, body)

    module.run = marked


def _wrap_training(module: ModuleType) -> None:
    run = module.TrainingRun
    run.__init__ = _once("process group", run.__init__, before=True)
    run._schedule = _once("rows", run._schedule)
    module.load_model = _once("model", module.load_model)
    module.choose_kernels = _once("kernels", module.choose_kernels)
    run._trainer = _once("trainer", run._trainer)
    run.on_train_begin = _once("engine", run.on_train_begin, before=True)
    run.evaluate = _once("held-out loss", run.evaluate)
    run.on_step = _once("first step", run.on_step)
    run.on_epoch_end = _once("steps", run.on_epoch_end, before=True)


def _wrap_quiet(module: ModuleType) -> None:
    module.import_transformers = _once("transformers", module.import_transformers)


def _wrap_session(module: ModuleType) -> None:
    module.ModelEvaluation._draw = _once("lm-eval", module.ModelEvaluation._draw, before=True)


def _wrap_engine(module: ModuleType) -> None:
    module.HfEngine.load = _once("model", module.HfEngine.load)


def _wrap_draw(module: ModuleType) -> None:
    module.draw = _once("first token", module.draw)


_WRAPPED = {
    "worker.phase": _wrap_phase,
    "worker.training.training_run": _wrap_training,
    "worker.imports.quiet": _wrap_quiet,
    "worker.evaluation.runner": _wrap_session,
    "worker.inference.hf_engine": _wrap_engine,
    "worker.inference.sampling": _wrap_draw,
}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _WRAPPED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_wrap(module: ModuleType) -> None:
                execute(module)
                _WRAPPED[name](module)

            spec.loader.exec_module = then_wrap
        return spec
