"""`jobspec replay`: the spec of a bundle as a job of one's own, and what came out differently."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobspec.bundle import contents
from jobspec.bundle.findings import BundleFinding
from jobspec.bundle.read_bundle import CheckedBundle
from jobspec.bundle.redaction import PLACEHOLDER
from jobspec.errors import BenchmarkError, JobspecError, TransitionRefused
from jobspec.queue.job import Job
from jobspec.records import base as records
from jobspec.records import evaluation, metrics
from jobspec.records.base import UNSET, State
from jobspec.records.manifest import CodeVersion, Manifest
from jobspec.records.phases import EVAL, TRAIN
from jobspec.results.table import main_metrics
from jobspec.spec import builder
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import AttemptPaths, JobPaths
from jobspec.version import code_version, package_versions


class EnvironmentDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a run used in another version; null where it is missing or not known."""

    what: str
    bundle: str | None
    here: str | None


def spec_of(bundle: CheckedBundle, settings: Sequence[str]) -> JobSpec:
    """The bundle's spec, with the places of this machine for those that were replaced.

    Args:
        settings: `FIELD=VALUE`, as for `jobspec new --set`.

    Raises:
        JobspecError: a place is still missing, or the spec runs a model's own code.
    """
    fields = msgspec.to_builtins(bundle.spec)
    for setting in settings:
        builder.apply(fields, setting)
    spec = builder.decode(fields, settings)
    for field, value in _places(spec):
        if value is not None and PLACEHOLDER.search(value):
            raise JobspecError(
                f"`{value}` stands for a place on another machine",
                file=bundle.paths.spec.name,
                place=f"$.{field}",
                hint=f"give the place here with --set {field}=…",
            )
    allowed = any(each.startswith("model.trust_remote_code=") for each in settings)
    if spec.model.trust_remote_code and not allowed:
        raise JobspecError(
            "the spec runs the model's own code",
            file=bundle.paths.spec.name,
            place="$.model.trust_remote_code",
            hint="read that code, then give --set model.trust_remote_code=true",
        )
    return spec


def _places(spec: JobSpec) -> Iterator[tuple[str, str | None]]:
    yield "model.name", spec.model.name
    yield "model.chat_template", spec.model.chat_template
    if spec.data is not None:
        yield "data.path", spec.data.path
        for number, source in enumerate(spec.data.sources):
            yield f"data.sources[{number}].path", source.path
    if spec.eval is not None:
        yield "eval.benchmark_dir", spec.eval.benchmark_dir


def environment_here(bundle: CheckedBundle) -> list[EnvironmentDifference]:
    """How this Python differs from that of the bundle. Devices are known when the job has run."""
    code = msgspec.convert(code_version(), CodeVersion)
    here = Manifest(packages=package_versions(), code=code)
    there = _manifest(bundle.paths.attempt(bundle.about.attempt))
    found = [each for each in _differences(there, here) if each.what in _of_software(there, here)]
    return [*found, EnvironmentDifference(what="device", bundle=_device(there), here=None)]


def compare(bundle: CheckedBundle, job: Job) -> Iterator[BundleFinding]:
    """Compare a finished job with the bundle that it replays.

    Raises:
        TransitionRefused: the job has not succeeded.
    """
    if job.state is not State.SUCCEEDED:
        raise TransitionRefused(
            f"`{job.id}` is {job.state}", hint="compare it when it has succeeded: `jobspec wait`"
        )
    there, here = bundle.paths.attempt(bundle.about.attempt), job.paths.attempt(job.attempt)
    for each in _differences(_manifest(there), _manifest(here)):
        text = f"{each.what}: {each.bundle or 'none'} there, {each.here or 'none'} here"
        yield BundleFinding.unknown("environment", text)
    yield from _compare_losses(bundle.paths, job.paths)
    yield from _compare_scores(there, here)
    yield from _compare_samples(there, here)
    yield from _compare_weights(bundle, here)


def _manifest(attempt: AttemptPaths) -> Manifest:
    return records.read(attempt.manifest, Manifest) or Manifest()


def _of_software(one: Manifest, other: Manifest) -> set[str]:
    return {"commit", *one.packages, *other.packages}


def _differences(there: Manifest, here: Manifest) -> list[EnvironmentDifference]:
    pairs: dict[str, tuple[str | None, str | None]] = {
        name: (there.packages.get(name), here.packages.get(name))
        for name in sorted(there.packages.keys() | here.packages.keys())
    }
    pairs["commit"] = _commit(there), _commit(here)
    pairs["python"] = there.python, here.python
    pairs["device"] = _device(there), _device(here)
    return [
        EnvironmentDifference(what=what, bundle=a or None, here=b or None)
        for what, (a, b) in pairs.items()
        if a != b
    ]


def _commit(manifest: Manifest) -> str | None:
    if manifest.code.commit is UNSET:
        return None
    return manifest.code.commit + (" (modified)" if manifest.code.dirty else "")


def _device(manifest: Manifest) -> str:
    return f"{manifest.device.count} × {manifest.device.name or manifest.cpu}"


def _compare_losses(there: JobPaths, here: JobPaths) -> Iterator[BundleFinding]:
    theirs, ours = _losses(there), _losses(here)
    if not theirs and not ours:
        return
    if theirs.keys() != ours.keys():
        text = f"{len(theirs):,} steps there, {len(ours):,} here"
        yield BundleFinding.differs("losses", text)
        return
    other = [step for step, loss in theirs.items() if loss != ours[step]]
    if not other:
        yield BundleFinding.ok("losses", f"identical in all {len(ours):,} steps")
        return
    most = max(other, key=lambda step: abs(theirs[step] - ours[step]))
    text = (
        f"{len(other):,} of {len(ours):,} steps differ, the first is {other[0]}; the largest "
        f"difference is {abs(theirs[most] - ours[most]):.3g} in step {most}"
    )
    yield BundleFinding.differs("losses", text)


def _losses(job: JobPaths) -> dict[int, float]:
    rows = metrics.history(job, TRAIN.name)
    return {row["step"]: row["loss"] for row in rows if _is_step(row)}


def _is_step(row: dict[str, Any]) -> bool:
    return isinstance(row.get("step"), int) and isinstance(row.get("loss"), float)


def _compare_scores(there: AttemptPaths, here: AttemptPaths) -> Iterator[BundleFinding]:
    theirs, ours = EVAL.read(there), EVAL.read(here)
    if theirs is None or ours is None:
        return
    for benchmark, (metric, value) in main_metrics(theirs.metrics).items():
        mine = ours.metrics.get(f"bench/{benchmark}/{metric}")
        bounds = theirs.intervals.get(benchmark, {})
        low, high = bounds.get("samples") or bounds.get("questions") or (None, None)
        what = f"`{benchmark}`: {metric} {value} there, {mine} here"
        if mine is None or low is None or high is None:
            equal = mine is not None and math.isclose(value, mine, abs_tol=0.0, rel_tol=0.0)
            yield (BundleFinding.ok if equal else BundleFinding.unknown)("scores", what)
        elif value == mine or low <= mine <= high:
            yield BundleFinding.ok("scores", f"{what}, within {low:.4f} to {high:.4f}")
        else:
            yield BundleFinding.differs("scores", f"{what}, outside of {low:.4f} to {high:.4f}")


def _compare_samples(there: AttemptPaths, here: AttemptPaths) -> Iterator[BundleFinding]:
    ours = evaluation.benchmark_dirs(here.eval)
    for name, directory in evaluation.benchmark_dirs(there.eval).items():
        try:
            theirs, mine = (_texts(each) for each in (directory, ours.get(name, here.eval)))
        except BenchmarkError:
            continue
        same = sum(text == mine.get(key) for key, text in theirs.items())
        text = f"`{name}`: {same:,} of {len(theirs):,} samples are identical"
        exact = same == len(theirs) == len(mine)
        yield (BundleFinding.ok if exact else BundleFinding.differs)("samples", text)


def _texts(directory: Path) -> dict[tuple[str, int], str]:
    _, _, drawn = evaluation.read_generations(directory)
    return {(row.question, row.sample): row.text for rows in drawn.values() for row in rows}


def _compare_weights(bundle: CheckedBundle, here: AttemptPaths) -> Iterator[BundleFinding]:
    theirs = {Path(each.path).name: each.sha256 for each in bundle.about.weights}
    if not theirs:
        return
    ours: dict[str, str] = {}
    for path in contents.model_files(here):
        if path.name in theirs:
            with path.open("rb") as file:
                ours[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    other = sorted(name for name, digest in theirs.items() if ours.get(name) != digest)
    if not other:
        yield BundleFinding.ok("weights", f"{len(theirs)} files are identical")
    else:
        text = f"{len(other)} of {len(theirs)} files differ: {', '.join(other[:3])}"
        yield BundleFinding.differs("weights", text)
