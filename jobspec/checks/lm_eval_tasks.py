"""Checks lm-eval's own tasks, and the sandbox for programs, with the worker's code.

`python -m worker.lm_eval_tasks.task_check` loads them as the eval phase will, so that an unknown
member, a missing package or a code task without a sandbox is found before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jobspec import worker_command
from jobspec.benchmarks import question_file, registry
from jobspec.checks import rows
from jobspec.checks.benchmarks import directories
from jobspec.errors import JobspecError, SpecError
from jobspec.models import config
from jobspec.models.directory import locate
from jobspec.records.answers import TaskFacts
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths


def check_tasks(
    spec: JobSpec, root: Path, file: Path, tell: Callable[[str], None]
) -> Iterator[str]:
    """Check the lm-eval tasks of a spec; yield warnings.

    Raises:
        JobspecError: a task is unknown or can't be run, or the spec sets what it does not use.
    """
    if spec.eval is None:
        return
    where = directories(spec.eval, root)
    names = [name for name in spec.eval.benchmarks if not question_file.is_ours(name, where)]
    ours = [name for name in spec.eval.benchmarks if name not in names]
    if not names and not any(_needs_more(name, where) for name in ours):
        return
    if names:
        tell(f"{file.name}: loading lm-eval's {', '.join(names)}")
    try:
        found = rows.load_tasks(spec, root)
    except worker_command.PackageMissing as error:
        yield f"{error.message}; the eval phase loads them first"
        return
    except JobspecError as error:
        raise type(error)(
            error.message, hint=error.hint, file=error.file or file, place=error.place
        ) from error
    _check_budgets(spec, root, file, [fact for facts in found.tasks.values() for fact in facts])
    if found.without_data:
        yield (
            f"{', '.join(found.without_data)}: no data here, and workers without network can't "
            "fetch it: run `jobspec fetch SPEC…` first"
        )


def _needs_more(name: str, where: Sequence[Path]) -> bool:
    """Whether a benchmark of ours needs a sandbox, packages or data to judge its answers."""
    benchmark = registry.get(name)
    checked = benchmark is not None and benchmark.checks_instructions
    return checked or question_file.runs_code(name, where)


def _check_budgets(spec: JobSpec, root: Path, file: Path, tasks: list[TaskFacts]) -> None:
    """The tokens that each task generates must fit the model's context."""
    directory = locate(spec.model, RootPaths(root))
    context = None if directory is None else config.read(directory).context_length
    for task in tasks:
        if context is not None and task.max_gen_toks is not None and task.max_gen_toks >= context:
            raise SpecError(
                f"`{task.task}` generates up to {task.max_gen_toks} tokens; the model's context "
                f"is {context}",
                file=file,
                place="$.eval.benchmarks",
                hint="set max_gen_toks in `eval.overrides` for it",
            )
