"""The parts of `jobspec verify` that need the worker's packages: loss masks and grading.

They run as programs of the worker (`jobspec.worker_command`). Without its packages, the data or the
tokenizer, they say so.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from jobspec import worker_command
from jobspec.bundle.findings import BundleFinding
from jobspec.bundle.read_bundle import CheckedBundle
from jobspec.errors import JobspecError
from jobspec.records.answers import PreparedAgain, Regraded
from jobspec.records.phases import EVAL, PREPARE
from jobspec.records.reports import PrepareReport
from jobspec.spec import identity
from jobspec.spec.schema import DataSpec, JobSpec
from jobspec.storage.layout import AttemptPaths
from jobspec.worker_command import PackageMissing

# What of a report depends on rows, template and tokenizer alone.
_COMPARED = (
    *("rows_in", "rows_train", "rows_eval", "dropped", "tokens", "trained_tokens"),
    *("train", "eval", "data_sha256", "template_sha256"),
)


def check_masks(
    bundle: CheckedBundle, data: Sequence[Path], model: Path | None
) -> Iterator[BundleFinding]:
    """Tokenize and label the rows again, and compare tokens and loss masks.

    Args:
        data: data files of the spec, in any order; those that the bundle includes are not needed.
        model: a directory with the tokenizer, if the bundle does not include it.
    """
    attempt = bundle.paths.attempt(bundle.about.attempt)
    stated = PREPARE.read(attempt)
    if bundle.spec.train is None or stated is None:
        return
    model = model or _included_model(attempt)
    if model is None:
        yield _unknown("the tokenizer is not included; --model names a directory with it")
        return
    spec = _with_places(bundle, data, model)
    if isinstance(spec, str):
        yield _unknown(spec)
        return
    try:
        made = _prepare_again(spec)
    except PackageMissing as error:
        yield _unknown(error.message)
        return
    except JobspecError as error:
        yield _unknown(f"the rows can't be tokenized: {error}")
        return
    yield from _compare_masks(bundle, stated, made)


def _unknown(text: str) -> BundleFinding:
    return BundleFinding.unknown("loss masks", f"not derived again: {text}")


def _prepare_again(spec: JobSpec) -> PreparedAgain:
    with tempfile.TemporaryDirectory(prefix="jobspec-masks-") as directory:
        file = Path(directory) / "spec"
        file.write_bytes(identity.canonical(spec))
        arguments = [str(file), str(Path(directory) / "work")]
        return worker_command.ask(
            PreparedAgain,
            "worker.data.prepare_again",
            arguments,
            what="the loss masks can't be derived",
        )


def _included_model(attempt: AttemptPaths) -> Path | None:
    """The trained model, if its tokenizer is included."""
    for directory in (attempt.final_model, attempt.adapter):
        if any(path.name.startswith("tokenizer") for path in directory.glob("*")):
            return directory
    return None


def _with_places(bundle: CheckedBundle, data: Sequence[Path], model: Path) -> JobSpec | str:
    """The spec with data and model on this machine; why it can't be made, as a text."""
    spec = bundle.spec
    assert spec.data is not None
    known = {each.sha256: bundle.paths.dir / each.path for each in bundle.about.data if each.path}
    for path in data:
        if not path.is_file():
            raise JobspecError("there is no such file", file=path)
        with path.open("rb") as file:
            known[hashlib.file_digest(file, "sha256").hexdigest()] = path
    places: list[str] = []
    for each in bundle.about.data:
        place = known.get(each.sha256)
        if place is None:
            return f"`{each.name}` is not included; --data names the file with its SHA-256"
        places.append(str(place.absolute()))
    if spec.model.chat_template is not None:
        return "the spec names a chat template outside of the model"
    here = msgspec.structs.replace(spec.model, name=str(model.absolute()), revision=None)
    return msgspec.structs.replace(spec, model=here, data=_with_paths(spec.data, places))


def _with_paths(data: DataSpec, places: Sequence[str]) -> DataSpec:
    if data.path is not None:
        return msgspec.structs.replace(data, path=places[0])
    sources = tuple(
        msgspec.structs.replace(source, path=place)
        for source, place in zip(data.sources, places, strict=True)
    )
    return msgspec.structs.replace(data, sources=sources)


def _compare_masks(
    bundle: CheckedBundle, stated: PrepareReport, made: PreparedAgain
) -> Iterator[BundleFinding]:
    file = f"attempts/{bundle.about.attempt}/{PREPARE.name}.json"
    pairs = {name: (getattr(stated, name), getattr(made.report, name)) for name in _COMPARED}
    faults = [
        f"`{name}` is stated as {a!r}; the rows give {b!r}"
        for name, (a, b) in pairs.items()
        if a != b
    ]
    exact = bool(bundle.about.prepared) and bundle.about.prepared == made.sha256
    report = made.report
    text = (
        f"{report.train.rows + report.eval.rows:,} rows tokenized again: {report.tokens:,} tokens, "
        f"{report.trained_tokens:,} with a loss"
    )
    text += ", each token and label as in the run" if exact else "; as many as in the run"
    yield BundleFinding.of("loss masks", faults, text, file)


def check_grades(bundle: CheckedBundle) -> Iterator[BundleFinding]:
    """Read the answers in the samples again, and compare with the scores."""
    attempt = bundle.paths.attempt(bundle.about.attempt)
    if EVAL.read(attempt) is None:
        return
    changed = {path for path in bundle.about.replaced if f"/{AttemptPaths.EVAL}/" in path}
    what = "the samples can't be graded again"
    try:
        found = worker_command.ask(
            Regraded, "worker.evaluation.regrade", [str(attempt.dir)], what=what
        )
    except JobspecError as error:
        yield BundleFinding.unknown("grades", error.message.splitlines()[0])
        return
    for name, each in found.benchmarks.items():
        file = f"attempts/{attempt.number}/{AttemptPaths.EVAL}/{name}"
        if each.left_out:
            yield BundleFinding.unknown("grades", f"`{name}`: {each.left_out}", file)
        elif each.differing and any(path.startswith(f"{file}/") for path in changed):
            text = (
                f"`{name}`: {len(each.differing)} samples differ, but texts in them were replaced"
            )
            yield BundleFinding.unknown("grades", text, file)
        else:
            faults = [f"sample `{sample}` is judged differently" for sample in each.differing]
            text = f"`{name}`: {each.samples:,} samples read and graded again, with the same result"
            yield BundleFinding.of("grades", faults, text, file)
