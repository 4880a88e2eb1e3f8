"""Everything that is checked before a spec becomes a job: on a login node, in seconds, no torch.

The data's hash is filled in and paths are made absolute here, before the id is computed, because
other data is another experiment. The worker's own code checks the rows, in a subprocess of this
environment or of the image (`$JOBSPEC_WORKER_COMMAND`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from jobspec.checks import contamination
from jobspec.checks import data as data_checks
from jobspec.checks import rows as row_checks
from jobspec.checks.benchmarks import check_benchmarks, find_files
from jobspec.checks.data import RELATIVE_PATHS, absolute, refuse_unreadable
from jobspec.checks.engine import check_engine
from jobspec.checks.lm_eval_tasks import check_tasks
from jobspec.checks.model import check_model
from jobspec.checks.packages import check_packages
from jobspec.errors import JobspecError, SpecError, collect, raise_all
from jobspec.estimates import evaluation_time, training_time
from jobspec.estimates.evaluation_time import EvaluationEstimate
from jobspec.estimates.training_time import TrainingEstimate
from jobspec.models.devices import Device
from jobspec.models.directory import is_path, locate
from jobspec.records.reports import RowReport
from jobspec.spec import identity, parsing, rules, secrets, tracking_names, tracking_sinks
from jobspec.spec.benchmark_settings import with_canonical_names
from jobspec.spec.schema import EvalSpec, JobSpec, TrackingSpec
from jobspec.storage.layout import RootPaths
from jobspec.worker_command import PackageMissing

# Reasons for dropping rows that other tags of a think block can cause.
_KINDS_OF_THINKING = (
    "lost_in_rendering",
    "no_thinking",
    "unclosed_thinking",
    "prompt_not_a_prefix",
)


@dataclass(frozen=True)
class CheckedSpec:
    """A spec that may be enqueued: completed, with warnings and estimates."""

    file: Path
    spec: JobSpec
    rows: RowReport | None = None
    scoring: EvaluationEstimate | None = None
    training: TrainingEstimate | None = None
    warnings: list[str] = field(default_factory=list[str])

    @property
    def job(self) -> str:
        """The id that the job will have."""
        return identity.job_id(self.spec.name, identity.canonical(self.spec))


def check(
    file: Path,
    root: Path,
    *,
    rows: bool = True,
    without_model: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> CheckedSpec:
    """Check one spec file as `enqueue` does.

    Args:
        root: where the model may have been fetched to, and where prepared rows are kept.
        rows: whether the worker's code renders and verifies the rows and loads lm-eval's tasks; if
            not, only the rows' JSON is read, and the tasks' names are looked up.
        without_model: do not render rows if the model is not on this machine; warn instead.
        tell: called with a message before a step that may take long.

    Raises:
        JobspecError: what is wrong, with file, location and hint; `others` has the rest.
    """
    spec, errors = parsing.examine(parsing.read_file(file), file=file)
    if errors:
        if spec is not None:
            wrong = [error.place or "" for error in errors]
            readable = spec
            collect(errors, lambda: [*check_benchmarks(readable, root, file)], [])
            if not any(place.startswith("$.data") for place in wrong):
                collect(errors, lambda: complete(readable, file), readable)
        raise_all(errors)
    assert spec is not None, "a spec without errors was read"
    if rows and without_model and spec.train is not None and _is_missing(spec, root):
        checked = check_spec(spec, file, root, rows=False, tell=tell)
        why = "the rows are not rendered and hours are not predicted without the model's tokenizer"
        return dataclasses.replace(checked, warnings=[*checked.warnings, why])
    return check_spec(spec, file, root, rows=rows, tell=tell)


def _is_missing(spec: JobSpec, root: Path) -> bool:
    """Whether a model of the hub is not in the root's cache."""
    return not is_path(spec.model.name) and locate(spec.model, RootPaths(root)) is None


def check_spec(
    spec: JobSpec,
    file: Path,
    root: Path,
    *,
    rows: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> CheckedSpec:
    """Check a spec that was read already, as `check` does; errors name `file`."""
    secrets.refuse(spec, file=file)
    errors: list[JobspecError] = []
    collect(errors, lambda: tracking_names.check(spec.tracking, file), None)
    given = spec
    spec = collect(errors, lambda: complete(given, file), given)
    warnings: list[str] = []
    for found in (
        lambda: check_model(spec, root, file),
        lambda: check_benchmarks(spec, root, file),
        lambda: check_engine(spec, file),
        lambda: check_packages(spec, file),
    ):
        warnings += collect(errors, lambda found=found: [*found()], [])
    raise_all(errors)
    if spec.tracking.sinks != TrackingSpec().sinks:
        warnings += tracking_sinks.missing(spec.tracking.sinks)
    if rows:
        warnings += check_tasks(spec, root, file, tell)
    report = None
    if spec.train is not None and rows:
        tell(f"{file.name}: rendering and verifying the rows")
        report = _check_rows(spec, root, file)
        warnings += _check_thinking(spec, report, file)
        warnings += contamination.warn(report.overlap)
    elif spec.data is not None:
        row_checks.check_lines(spec.data)
        warnings += _search_for_questions(spec, root)
    return CheckedSpec(file, spec, report, evaluation_time.estimate(spec, root), warnings=warnings)


def with_training_estimate(
    checked: CheckedSpec, root: Path, device: Device, gpus: int | None = None
) -> CheckedSpec:
    """Add what training takes on these devices; a spec that trains nothing stays as it is.

    Args:
        gpus: how many devices; by default as many as the spec asks for, or one.

    Raises:
        JobspecError: it does not fit; the hint says which settings would.
    """
    count = gpus or checked.spec.resources.gpus or 1
    try:
        training = training_time.estimate(checked.spec, root, device, count, checked.rows)
    except SpecError as error:
        raise SpecError(
            error.message, hint=error.hint, file=checked.file, place=error.place
        ) from error
    return dataclasses.replace(checked, training=training)


def _check_rows(spec: JobSpec, root: Path, file: Path) -> RowReport:
    try:
        return row_checks.check_rows(spec, root)
    except JobspecError as error:
        token = spec.eval.think_end_token if spec.eval is not None else None
        hint = error.hint
        tags_matter = any(kind in error.message for kind in _KINDS_OF_THINKING)
        if token not in (None, EvalSpec().think_end_token) and tags_matter:
            asks = f"$.eval.think_end_token is `{token}`: is it what ends thinking in these rows?"
            hint = f"{hint}; {asks}" if hint else asks
        raise type(error)(
            error.message, hint=hint, file=error.file or file, place=error.place
        ) from error


def _search_for_questions(spec: JobSpec, root: Path) -> Iterator[str]:
    """Search unchecked rows for benchmark questions; yield warnings. Raises if there are some."""
    if spec.eval is None:
        return
    files = find_files(spec.eval, root)
    if not any(files.values()):
        yield from contamination.warn(dict.fromkeys(files))
        return
    try:
        yield from contamination.warn(row_checks.search_for_questions(spec, root).overlap)
    except PackageMissing as error:
        yield f"{error.message}; prepare searches them before training"


def _check_thinking(spec: JobSpec, report: RowReport, file: Path) -> Iterator[str]:
    """Check that the text which ends thinking occurs in the rows or in the chat template."""
    token = spec.eval.think_end_token if spec.eval is not None else None
    if token is not None and not report.rows_with_think_end_token + report.think_end_in_template:
        if token != EvalSpec().think_end_token:
            raise SpecError(
                f"`{token}` occurs neither in the rendered rows nor in the chat template",
                file=file,
                place="$.eval.think_end_token",
                hint="give the text that ends a think block, or null",
            )
        yield f"no row has `{token}`: the model will be trained to answer without thinking"
    elif token is not None and report.rows_without_thinking:
        some = f"{report.rows_without_thinking} of {report.rows_train + report.rows_eval}"
        yield f"{some} rows have no thinking"


def complete(spec: JobSpec, file: Path | None = None) -> JobSpec:
    """Fill in the data's hash, make paths absolute, and replace benchmarks' aliases by names."""
    named = with_canonical_names(spec)
    if named != spec:  # two aliases may be the same benchmark
        rules.check(named, file=file)
    spec = with_absolute_paths(named)
    template = spec.model.chat_template
    if template is not None:
        refuse_unreadable(Path(template), "$.model.chat_template", file, RELATIVE_PATHS)
    if spec.data is None:
        return spec
    return msgspec.structs.replace(spec, data=data_checks.complete(spec.data, file))


def with_absolute_paths(spec: JobSpec) -> JobSpec:
    """Make the paths of model, chat template, data and benchmarks absolute."""
    changes: dict[str, Any] = {}
    model: dict[str, Any] = {}
    if is_path(spec.model.name):
        model["name"] = absolute(spec.model.name)
    if spec.model.chat_template is not None:
        model["chat_template"] = absolute(spec.model.chat_template)
    changes["model"] = msgspec.structs.replace(spec.model, **model)
    if spec.data is not None:
        changes["data"] = data_checks.with_absolute_paths(spec.data)
    if spec.eval is not None and spec.eval.benchmark_dir is not None:
        place = absolute(spec.eval.benchmark_dir)
        changes["eval"] = msgspec.structs.replace(spec.eval, benchmark_dir=place)
    return msgspec.structs.replace(spec, **changes)
