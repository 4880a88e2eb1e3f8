"""`jobspec verify`: what of a bundle is true, and what nobody can tell from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jobspec.bundle import read_bundle, worker_checks
from jobspec.bundle.cost_checks import check_cost
from jobspec.bundle.findings import BundleFinding, VerifiedBundle
from jobspec.bundle.read_bundle import CheckedBundle
from jobspec.bundle.recompute import check_scores
from jobspec.bundle.redaction import PLACEHOLDER
from jobspec.bundle.stated_facts import check_records
from jobspec.bundle.training_facts import check_training
from jobspec.spec import identity
from jobspec.storage.layout import BundlePaths


def verify(place: Path, data: Sequence[Path] = (), model: Path | None = None) -> VerifiedBundle:
    """Check a bundle.

    Args:
        data: data files that the bundle does not include, to derive the loss masks from.
        model: a directory with the model's tokenizer, likewise.

    Raises:
        JobspecError: it is damaged, or not what `jobspec bundle` writes.
    """
    with read_bundle.opened(place) as bundle:
        findings = list(_findings(bundle, data, model))
    return VerifiedBundle(
        bundle=str(place),
        job=bundle.about.job,
        fingerprint=bundle.fingerprint,
        verified=all(each.outcome != "differs" for each in findings),
        findings=findings,
    )


def _findings(
    bundle: CheckedBundle, data: Sequence[Path], model: Path | None
) -> Iterator[BundleFinding]:
    size = sum(each.size for each in bundle.files.values())
    hashes = f"{len(bundle.files)} files, {size:,} bytes, have the SHA-256 that is stated"
    yield BundleFinding.ok("hashes", hashes, BundlePaths.SUMS)
    yield _check_id(bundle)
    attempt = bundle.paths.attempt(bundle.about.attempt)
    yield from check_records(attempt, bundle.about, bundle.spec)
    yield from check_cost(bundle.paths, bundle.about)
    yield from check_training(bundle.paths, attempt, bundle.spec)
    yield from worker_checks.check_masks(bundle, data, model)
    yield from check_scores(attempt, bundle.about, bundle.spec)
    yield from worker_checks.check_grades(bundle)
    yield _check_weights(bundle)
    yield from _not_known()


def _check_id(bundle: CheckedBundle) -> BundleFinding:
    data = bundle.paths.spec.read_bytes()
    name = bundle.paths.spec.name
    if PLACEHOLDER.search(data.decode()):
        left = "names and paths in it were replaced, so that the job's id can't be computed from it"
        return BundleFinding.unknown("spec", left, name)
    found = identity.job_id(bundle.spec.name, identity.canonical(bundle.spec))
    wrong = [] if found == bundle.about.job else [f"gives the id `{found}`"]
    return BundleFinding.of("spec", wrong, f"gives the id `{found}`", name)


def _check_weights(bundle: CheckedBundle) -> BundleFinding:
    weights = bundle.about.weights
    if not weights:
        return BundleFinding.unknown("weights", "the bundle names none", BundlePaths.ABOUT)
    included = [bundle.files[each.path] for each in weights if each.path in bundle.files]
    if not included:
        names = ", ".join(f"{Path(each.path).name} {each.sha256[:12]}…" for each in weights)
        return BundleFinding.unknown(
            "weights", f"not included, only named: {names}", BundlePaths.ABOUT
        )
    same = included == list(weights)
    wrong = [] if same else ["the included weights are not those that are named"]
    return BundleFinding.of(
        "weights", wrong, f"{len(weights)} files are those that are named", None
    )


def _not_known() -> Iterator[BundleFinding]:
    """What no bundle can show."""
    for what in (
        "who made it and when: compare the fingerprint with a published one",
        "that training gave these losses and weights: `jobspec replay` trains again",
        "that the samples are the model's: `jobspec replay` draws them again",
        "that questions and expected answers are those of the benchmark",
    ):
        yield BundleFinding.unknown("origin", what)
