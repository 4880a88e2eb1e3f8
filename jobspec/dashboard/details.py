"""What the page shows of one run on its own: curves, attempts, provenance, log and samples."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from jobspec.dashboard import sample_choice
from jobspec.dashboard.curves import MOST_POINTS, Curves, curves
from jobspec.dashboard.runs import ShownScore, read_spec, show_scores
from jobspec.dashboard.sample_choice import ShownSamples
from jobspec.monitoring import cost, gpu_hours, reasons, status
from jobspec.queue.job import Job
from jobspec.records import base as records
from jobspec.records import metrics, phases
from jobspec.records.base import UNSET, State
from jobspec.records.manifest import Manifest
from jobspec.records.reports import EvalReport, ScoringProtocol
from jobspec.results import table
from jobspec.spec.schema import JobSpec
from jobspec.spec.sources import list_sources

_LOG_BYTES = 6000
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class AttemptLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt on the run's timeline. `reason` is what ended it; empty while it goes on."""

    attempt: int
    reason: str = ""
    message: str = ""
    hint: str | None = None
    phase: str | None = None
    step: int | None = None
    worker: str = ""
    host: str = ""
    started_at: str | None = None
    ended_at: str | None = None
    wall_s: float | None = None
    phases: dict[str, float] = {}


class PhaseHours(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of a run in one phase over all attempts, and the part that no later work used.

    Attributes:
        energy: as text, such as `1.9 kWh`; empty where it was not measured.
    """

    phase: str
    hours: float
    gpu_hours: float
    lost_hours: float
    energy: str = ""


class EpochScores(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of the weights after an epoch."""

    epoch: float
    scores: dict[str, ShownScore]


class LogEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a run's newest log."""

    name: str
    text: str


class RunDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one run that its row does not say.

    Attributes:
        origin: where the run comes from, for reproducing it: pairs of a name and a text.
    """

    curves: Curves
    attempts: list[AttemptLine]
    usage: list[PhaseHours]
    by_epoch: list[EpochScores]
    origin: list[tuple[str, str]]
    log: LogEnd | None
    samples: ShownSamples


def read_details(job: Job, *, points: int = MOST_POINTS, sample_text: int = 40_000) -> RunDetails:
    """Read a run's details.

    Args:
        points: the most points of a curve.
        sample_text: the most characters of samples.
    """
    return RunDetails(
        curves=curves(_training_rows(job), points),
        attempts=list(_attempts(job)),
        usage=list(_usage(job)),
        by_epoch=list(_by_epoch(job)),
        origin=list(_origin(job, read_spec(job))),
        log=_log_end(job),
        samples=sample_choice.choose(job, sample_text),
    )


def _training_rows(job: Job) -> list[metrics.Row]:
    """The rows of the phase that trains."""
    return [
        row for phase in phases.NAMES if phases.trains(phase)
        for row in metrics.history(job.paths, phase)
    ]  # fmt: skip


def _attempts(job: Job) -> Iterator[AttemptLine]:
    for row in status.job_report(job).attempts if read_spec(job) is not None else ():
        goes_on = job.state is State.RUNNING and row.attempt == job.attempt
        reason = "" if goes_on else row.reason or "lost"
        if row.reason is None and row.attempt == job.attempt and job.state is State.CANCELLED:
            reason = State.CANCELLED.value
        yield AttemptLine(
            attempt=row.attempt,
            reason=reasons.REASONS.get(reason, reason),
            message=row.message,
            hint=row.hint,
            phase=row.phase,
            step=row.step,
            worker=row.worker,
            host=row.host,
            started_at=row.started_at,
            ended_at=row.ended_at,
            wall_s=row.wall_s,
            phases={each.phase: each.wall_s for each in row.phases if not each.kept},
        )


def _usage(job: Job) -> Iterator[PhaseHours]:
    every = gpu_hours.phase_usage(job)
    for phase in dict.fromkeys(each.phase for each in every):
        mine = [each for each in every if each.phase == phase]
        part = cost.phase_cost(phase, mine)
        yield PhaseHours(
            phase=phase,
            hours=part.wall_s / 3600,
            gpu_hours=part.gpu_h,
            lost_hours=sum(each.lost_s for each in mine) / 3600,
            energy=cost.energy(part.cpu_j if part.gpu_j is None else part.gpu_j),
        )


def _by_epoch(job: Job) -> Iterator[EpochScores]:
    report = phases.EVAL.read(job.paths.attempt(job.attempt)) or EvalReport()
    for model in report.checkpoints or ():
        if model.epoch is not None:
            found = table.scores(model.metrics, report.protocol)
            yield EpochScores(epoch=model.epoch, scores=show_scores(found))


def _log_end(job: Job) -> LogEnd | None:
    """The last lines of the log that was written last."""
    for attempt in reversed(metrics.attempts(job.paths)):
        for phase in reversed(phases.NAMES):
            path = attempt.log(phase)
            try:
                lines = metrics.last_lines(path, _LOG_BYTES)
            except OSError:
                continue
            shown = [_plain(line) for line in lines]
            if any(shown):
                return LogEnd(name=f"attempt {attempt.number}, {phase}", text="\n".join(shown))
    return None


def _plain(line: bytes) -> str:
    """A line as it looks in the end: without colours, and of a progress bar the last state."""
    text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    return _CONTROL.sub("", text)


def _origin(job: Job, spec: JobSpec | None) -> Iterator[tuple[str, str]]:
    """Everything that must be equal to reproduce a run."""
    yield "job", job.id
    if spec is not None:
        revision = spec.model.revision
        yield "model", spec.model.name + (f" @ {revision}" if revision else "")
        for source in list_sources(spec.data) if spec.data is not None else ():
            name = f"source {source.name}" if source.name else "data"
            yield name, f"{source.path}, SHA-256 {(source.sha256 or '')[:16]}…"
    manifest = records.read(job.paths.attempt(job.attempt).manifest, Manifest)
    if manifest is not None:
        yield from _provenance(manifest)
    result = status.result(job)
    for benchmark, protocol in (result.protocol if result is not None else {}).items():
        yield f"protocol of {benchmark}", _protocol(protocol)


def _provenance(manifest: Manifest) -> Iterator[tuple[str, str]]:
    code, device = manifest.code, manifest.device
    if code.commit:
        dirty = ", with uncommitted changes" if code.dirty else ""
        yield "code", f"{code.commit[:12]}{dirty}"
    if device.count:
        yield "devices", f"{device.count}× {device.name or device.kind}"
    for name in ("host", "worker", "image", "python", "kernel"):
        if value := getattr(manifest, name):
            yield name, value
    if manifest.packages:
        packages = manifest.packages.items()
        yield "packages", ", ".join(f"{name} {version}" for name, version in packages)


def _protocol(protocol: ScoringProtocol) -> str:
    names = ("protocol", "k", "questions", "shots", "temperature", "top_p", "max_gen_toks")
    settings = [(name, getattr(protocol, name)) for name in names]
    shown = [f"{name} {value}" for name, value in settings if value not in (None, UNSET)]
    digest = protocol.prompt_sha256
    return ", ".join([*shown, *([f"prompts {digest[:12]}…"] if digest else [])])
