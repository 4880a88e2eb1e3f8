"""The table of phases: what each one runs, on which ranks, from what, and when.

To add a phase: its module, an entry here and in `jobspec/records/phases.py`, its record, its test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from jobspec.records import phases
from jobspec.records.base import Record
from jobspec.records.manifest import EngineSummary, TrainingInputs
from jobspec.records.phases import PhaseInfo
from jobspec.records.reports import PrepareReport, TrainReport
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import AttemptPaths, PreparedPaths
from worker.checkpoints import directories, integrity
from worker.data import dataset_cache
from worker.host import torchao_package, vllm_package
from worker.kernels import liger
from worker.launch.plan import BatchPlan
from worker.training.deepspeed_config import deepspeed_config


@dataclass(frozen=True, kw_only=True)
class PhaseEntry:
    """How a worker runs one phase. A phase is finished once its summary `<name>.json` exists.

    Attributes:
        module: run as `python -m module ATTEMPT_DIR` on each rank.
        inputs: earlier phases whose summaries it reads, where they ran.
        outputs: the files it writes besides its summary; a later attempt moves them to itself.
        all_devices: a rank on each device of the plan; else one rank.
        manifest_facts: the fields of the attempt's manifest that its report fills; None: none.
        reused_as: the log line of a later attempt that reuses the finished phase; None: not reused.
        is_usable: whether a report of an earlier attempt still holds. Args: it, the root.
        is_needed: whether it has anything to do in an attempt, with the plan.
        check: refuses a spec whose phase can't run here. Args: the spec, whether there are GPUs.
        settings: what the manifest has of its configuration. Args: spec, plan, on GPUs.
        finished_event: a row for events.jsonl after its end, with the event's name; or None.
    """

    info: PhaseInfo[Any]
    module: str
    inputs: tuple[PhaseInfo[Any], ...] = ()
    outputs: Callable[[AttemptPaths], tuple[Path, ...]] = lambda paths: ()
    all_devices: bool = False
    manifest_facts: Callable[[Any], dict[str, Record]] | None = None
    reused_as: str | None = None
    is_usable: Callable[[Any, Path], bool] = lambda report, root: True
    is_needed: Callable[[AttemptPaths, BatchPlan | None], bool] = lambda paths, plan: True
    check: Callable[[JobSpec, bool], None] = lambda spec, on_gpu: None
    settings: Callable[[JobSpec, BatchPlan, bool], dict[str, Any]] | None = None
    finished_event: Callable[[AttemptPaths, BatchPlan | None], dict[str, Any] | None] = (
        lambda paths, plan: None
    )

    @property
    def name(self) -> str:
        return self.info.name


def _rows_are_cached(report: PrepareReport, root: Path) -> bool:
    """Whether the prepared rows are there, complete, and in this version's layout."""
    return dataset_cache.find(PreparedPaths(root / report.dir)) is not None


def _training_inputs(report: PrepareReport) -> dict[str, Record]:
    return {"inputs": msgspec.convert(report, TrainingInputs, from_attributes=True)}


def _engine_summary(report: TrainReport) -> dict[str, Record]:
    return {"engine": msgspec.convert(report.engine, EngineSummary, from_attributes=True)}


def _has_other_ranks(paths: AttemptPaths, plan: BatchPlan | None) -> bool:
    return plan is not None and directories.needs_conversion(paths, plan.world)


def _converted_event(paths: AttemptPaths, plan: BatchPlan | None) -> dict[str, Any] | None:
    checkpoint = directories.newest_complete(paths)
    saved = integrity.read_manifest(checkpoint) if checkpoint else None
    if plan is None or saved is None or saved.converted is None:
        return None
    facts = msgspec.to_builtins(saved.converted)
    return {"event": "converted", "step": saved.step, "to_ranks": plan.world, **facts}


def _check_packages(spec: JobSpec, on_gpu: bool) -> None:
    torchao_package.check(spec, on_gpu=on_gpu)
    liger.check(spec, on_gpu=on_gpu)


PHASES = (
    PhaseEntry(
        info=phases.PREPARE,
        module="worker.data.prepare",
        manifest_facts=_training_inputs,
        reused_as="prepared rows of an earlier attempt are kept",
        is_usable=_rows_are_cached,
    ),
    PhaseEntry(
        info=phases.CONVERT,
        module="worker.checkpoints.convert",
        is_needed=_has_other_ranks,
        finished_event=_converted_event,
    ),
    PhaseEntry(
        info=phases.TRAIN,
        module="worker.training.train",
        inputs=(phases.PREPARE,),
        outputs=lambda paths: (paths.final_model,),
        all_devices=True,
        manifest_facts=_engine_summary,
        reused_as="training had finished: its final_model is kept",
        check=_check_packages,
        settings=lambda spec, plan, on_gpu: deepspeed_config(spec, plan.micro, on_gpu=on_gpu),
    ),
    PhaseEntry(
        info=phases.EVAL,
        module="worker.evaluation.evaluate",
        inputs=(phases.TRAIN,),
        check=lambda spec, on_gpu: vllm_package.check(spec),
    ),
)


def of(spec: JobSpec) -> tuple[PhaseEntry, ...]:
    """The phases a spec asks for, in order; `is_needed` says which of them an attempt runs."""
    return tuple(phase for phase in PHASES if getattr(spec, phase.info.section) is not None)


def named(name: str) -> PhaseEntry:
    """The entry of a phase."""
    return next(phase for phase in PHASES if phase.name == name)
