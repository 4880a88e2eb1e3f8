"""Checks that every benchmark of a spec is known and that its questions can be read."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jobspec.benchmarks import lm_eval_names, protocol, question_file, registry
from jobspec.checks import rows
from jobspec.errors import BenchmarkError, SpecError
from jobspec.spec.benchmark_settings import sampling
from jobspec.spec.schema import EvalSpec, JobSpec
from jobspec.storage.layout import RootPaths

BENCHMARK_DIR = question_file.DIRECTORY_VARIABLE


def check_benchmarks(spec: JobSpec, root: Path, file: Path) -> Iterator[str]:
    """Check the benchmarks; yield warnings.

    Our benchmarks must have readable files; any other name must be an lm-eval task.
    """
    if spec.eval is None:
        return
    where = directories(spec.eval, root)
    _check_protocols(spec.eval, where, file)
    for directory in where[:-1]:
        if not directory.is_dir():
            raise BenchmarkError(
                f"the benchmark directory `{directory}` does not exist",
                file=file,
                place="$.eval.benchmark_dir" if spec.eval.benchmark_dir else BENCHMARK_DIR,
                hint="it should hold a JSONL file for each benchmark",
            )
    files = find_files(spec.eval, root)
    for name, path in files.items():
        if path is not None and (benchmark := registry.get(name)) is not None:
            question_file.read(benchmark, path)
    yield from _remarks_on(spec.eval, files, where)
    yield from _look_up(_unknown(spec.eval, files, where), spec.eval.benchmarks, where, file)


def refuse_unknown(evaluation: EvalSpec, root: Path) -> None:
    """Raise BenchmarkError for a name that is no benchmark of ours and no task of lm-eval's.

    A benchmark of ours whose file is missing here is not refused.
    """
    where, files = directories(evaluation, root), find_files(evaluation, root)
    unknown = [name for name in _unknown(evaluation, files, where) if not registry.get(name)]
    for _ in _look_up(unknown, evaluation.benchmarks, where, None):
        pass


def _unknown(
    evaluation: EvalSpec, files: Mapping[str, Path | None], where: Sequence[Path]
) -> list[str]:
    """The benchmarks that have no file, can't be downloaded, and are no task files of a user's."""
    tasks = {name for directory in where for name in lm_eval_names.in_directory(directory)}
    unread = [name for name, path in files.items() if path is None]
    return [name for name in unread if name not in tasks and name not in _downloadable(files)]


def find_files(evaluation: EvalSpec, root: Path) -> dict[str, Path | None]:
    """The file of each benchmark; None for lm-eval's tasks, and where there is none here."""
    where = directories(evaluation, root)
    known = {name: registry.get(name) for name in evaluation.benchmarks}
    return {
        name: None if benchmark is None else question_file.find(benchmark, where)
        for name, benchmark in known.items()
    }


def missing_files(evaluation: EvalSpec, root: Path) -> list[str]:
    """The benchmarks that have no file here and can be downloaded."""
    return _downloadable(find_files(evaluation, root))


def directories(evaluation: EvalSpec, root: Path) -> tuple[Path, ...]:
    """Where benchmark files are looked for, and further task files of lm-eval's."""
    cache = RootPaths(root).cache / "benchmarks"
    return question_file.directories(evaluation.benchmark_dir, cache)


def _check_protocols(evaluation: EvalSpec, where: Sequence[Path], file: Path) -> None:
    """Refuse a protocol or worked examples that one of our benchmarks does not have."""
    for name in evaluation.benchmarks:
        benchmark = registry.get(name)
        if benchmark is None or not question_file.is_ours(name, where):
            continue
        shots = sampling(evaluation, name)["num_fewshot"]
        try:
            protocol.refuse_unknown_protocol(benchmark, evaluation.protocol, shots)
        except SpecError as error:
            raise SpecError(error.message, hint=error.hint, place=error.place, file=file) from error


def _downloadable(files: Mapping[str, Path | None]) -> list[str]:
    known = {name: registry.get(name) for name, path in files.items() if path is None}
    return [name for name, found in known.items() if found is not None and found.dataset]


def _remarks_on(
    evaluation: EvalSpec, files: Mapping[str, Path | None], where: Sequence[Path]
) -> Iterator[str]:
    """Warn of what is true on this machine but may not be true for the workers."""
    given = None if evaluation.benchmark_dir else os.environ.get(BENCHMARK_DIR)
    here = [name for name, path in files.items() if given and path and path.parent == where[0]]
    if here:
        yield f"{', '.join(here)}: read from ${BENCHMARK_DIR}, which workers must have too"
    if missing := _downloadable(files):
        yield (
            f"{', '.join(missing)}: no file here, and workers without network can't fetch it: "
            "run `jobspec fetch SPEC…` first"
        )


def _look_up(
    unknown: Sequence[str], asked: Sequence[str], where: Sequence[Path], file: Path | None
) -> Iterator[str]:
    known = rows.lm_eval_names() if unknown else set[str]()
    if known is None:
        yield f"lm-eval is not installed here: `{'`, `'.join(unknown)}` was not looked up"
        return
    for name in unknown:
        if name not in known:
            own = [benchmark.name for benchmark in question_file.brought_along(where)]
            raise _unknown_benchmark(name, asked, [*own, *sorted(known)], file)


def _unknown_benchmark(
    name: str, asked: Sequence[str], known: Sequence[str], file: Path | None
) -> BenchmarkError:
    ours = [benchmark.name for benchmark in registry.all_benchmarks()]
    benchmark = registry.get(name)
    place = f"$.eval.benchmarks[{list(asked).index(name)}]"
    if benchmark is not None and benchmark.name in ours:
        message, hint = f"there is no file of `{name}` here", question_file.get_it_hint(benchmark)
        return BenchmarkError(message, file=file, place=place, hint=hint)
    near = difflib.get_close_matches(name.casefold(), [*ours, *known], n=1)
    hint = f"ours are {', '.join(ours)}; or name an lm-eval task"
    if near:
        hint = f"did you mean `{near[0]}`?"
    if benchmark is not None:
        hint += f", or {question_file.get_it_hint(benchmark)}"
    return BenchmarkError(f"benchmark `{name}` is unknown", file=file, place=place, hint=hint)
