"""`ro-crate-metadata.json`: a bundle as an RO-Crate, which other tools read.

RO-Crate 1.2 with the profile Process Run Crate 0.5: each phase of each attempt is a `CreateAction`
of jobspec, from the files that it used to the files that it made. Nobody is named as its agent.
Source: https://w3id.org/ro/crate/1.2 and https://w3id.org/ro/wfrun/process/0.5
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import msgspec

from jobspec.bundle.about import AboutBundle, HashedFile
from jobspec.records import phases
from jobspec.records.attempt import End, Energy, PhaseTime
from jobspec.records.base import Reason
from jobspec.records.manifest import Manifest
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import BundlePaths

SPECIFICATION = "https://w3id.org/ro/crate/1.2"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_HOME = "https://github.com/jobspec/jobspec"
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
# How the profile Provenance Run Crate states the use of resources: what was measured, and its unit.
_QUANTITIES = f"{_HOME}/blob/main/docs/json.md#phasecost"
_UNITS = "http://qudt.org/vocab/unit"
_FORMATS = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".jinja": "text/plain",
    ".safetensors": "application/octet-stream",
}
_LICENSE = "#license"

Entity = dict[str, Any]


def metadata(
    about: AboutBundle,
    spec: JobSpec,
    files: Mapping[str, HashedFile],
    runs: Mapping[int, tuple[Manifest, End]],
) -> bytes:
    """The metadata file.

    Args:
        files: every file but the metadata and the sums, by path.
        runs: each attempt that has ended, with what it ran on.
    """
    ended = max((end.ended_at for _, end in runs.values()), default="")
    actions = [a for n, run in runs.items() for a in _actions(n, *run, about, files)]
    usage = [used for n, run in runs.items() for used in _usage(n, *run)]
    parts = [_file(each) for each in files.values()]
    parts.append(_sums_file())
    software = {f"#software-{n}": _software(n, manifest) for n, (manifest, _) in runs.items()}
    inputs = [_data(number, about) for number in range(len(about.data))]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": about.job,
        "description": f"The run `{about.job}` of jobspec: {_summary(spec)}.",
        "datePublished": ended or "1970-01-01",
        "license": _ref(_LICENSE),
        "conformsTo": _ref(PROFILE),
        "hasPart": [_ref(part["@id"]) for part in parts],
        "mentions": [_ref(action["@id"]) for action in actions],
    }
    graph: list[Entity] = [
        {
            "@id": BundlePaths.CRATE,
            "@type": "CreativeWork",
            "conformsTo": _ref(SPECIFICATION),
            "about": _ref("./"),
        },
        root,
        _profile(),
        _license(),
        *software.values(),
        *inputs,
        *actions,
        *usage,
        *parts,
    ]
    context = [f"{SPECIFICATION}/context", _TERMS]
    crate = msgspec.json.encode({"@context": context, "@graph": graph})
    return msgspec.json.format(crate, indent=2) + b"\n"


def hashes(crate: bytes) -> dict[str, str]:
    """The SHA-256 that a crate gives for each of its files; empty if it can't be read."""
    try:
        graph = msgspec.json.decode(crate, type=dict[str, Any])["@graph"]
        return {each["@id"]: each["sha256"] for each in graph if "sha256" in each}
    except (msgspec.MsgspecError, KeyError, TypeError, RecursionError):
        return {}


def identifier(path: str) -> str:
    """The `@id` of a file."""
    return quote(path)


def _ref(identity: str) -> Entity:
    return {"@id": identity}


def _summary(spec: JobSpec) -> str:
    trained = "fine-tuned" if spec.train is not None else "as it is"
    scored = f", scored on {', '.join(spec.eval.benchmarks)}" if spec.eval is not None else ""
    return f"{spec.model.name} {trained}{scored}"


def _file(each: HashedFile) -> Entity:
    kind = _FORMATS.get(PurePosixPath(each.path).suffix, "application/octet-stream")
    return {
        "@id": identifier(each.path),
        "@type": "File",
        "name": each.path,
        "encodingFormat": kind,
        "contentSize": str(each.size),
        "sha256": each.sha256,
    }


def _sums_file() -> Entity:
    return {
        "@id": BundlePaths.SUMS,
        "@type": "File",
        "name": BundlePaths.SUMS,
        "description": "the SHA-256 of every other file, for `sha256sum --check`",
        "encodingFormat": "text/plain",
    }


def _profile() -> Entity:
    return {
        "@id": PROFILE,
        "@type": ["CreativeWork", "Profile"],
        "name": "Process Run Crate",
        "version": "0.5",
    }


def _license() -> Entity:
    return {
        "@id": _LICENSE,
        "@type": "CreativeWork",
        "name": "no license stated",
        "description": "The authors of this run have stated no license for its files.",
    }


def _software(attempt: int, manifest: Manifest) -> Entity:
    packages = ", ".join(f"{name} {version}" for name, version in manifest.packages.items())
    commit = manifest.code.commit or "unknown"
    return {
        "@id": f"#software-{attempt}",
        "@type": "SoftwareApplication",
        "name": "jobspec",
        "url": _HOME,
        "version": f"{manifest.packages.get('jobspec', 'unknown')} (commit {commit})",
        "softwareRequirements": f"Python {manifest.python}; {packages}",
    }


def _data(number: int, about: AboutBundle) -> Entity:
    data = about.data[number]
    entity = {
        "@id": f"#data-{number + 1}",
        "@type": "CreativeWork",
        "name": data.name,
        "description": "rows that the model was trained on",
    }
    return entity | ({"sha256": data.sha256} if data.sha256 else {})


def _actions(
    attempt: int, manifest: Manifest, end: End, about: AboutBundle, files: Mapping[str, HashedFile]
) -> list[Entity]:
    """One action for each phase that ran in an attempt."""
    device = f"{manifest.device.count} × {manifest.device.name or manifest.cpu}"
    used = [_ref("spec.json")]
    used += [_ref(f"#data-{number + 1}") for number in range(len(about.data))]
    times = end.phases or (PhaseTime(phase=phases.EVAL.name),)
    return [
        {
            "@id": _action(attempt, time.phase),
            "@type": "CreateAction",
            "name": f"{time.phase} of {about.job}, attempt {attempt}",
            "description": f"ran on {device}{'' if time.energy else ', energy not measured'}",
            "instrument": _ref(f"#software-{attempt}"),
            "startTime": end.started_at,
            "endTime": end.ended_at,
            "actionStatus": _ref(_status(end)),
            "object": used,
            "result": [
                _ref(identifier(path)) for path in files if _made_by(path, attempt, time.phase)
            ],
            "resourceUsage": [_ref(each["@id"]) for each in _usage_of(attempt, manifest, time)],
        }
        for time in times
    ]


def _action(attempt: int, phase: str) -> str:
    return f"#attempt-{attempt}-{phase}"


def _usage(attempt: int, manifest: Manifest, end: End) -> Iterator[Entity]:
    """What the phases of an attempt used: see docs/json.md on PhaseCost."""
    for time in end.phases:
        yield from _usage_of(attempt, manifest, time)


def _usage_of(attempt: int, manifest: Manifest, time: PhaseTime) -> list[Entity]:
    energy = time.energy or Energy()
    found = {
        "wall_s": ("seconds", time.wall_s, "SEC"),
        "gpu_h": ("GPU-hours", time.wall_s * manifest.gpus / 3600, "HR"),
        "gpu_j": ("energy of the job's GPUs", energy.gpu_j, "J"),
        "cpu_j": ("energy of the node's CPUs", energy.cpu_j, "J"),
    }
    return [
        {
            "@id": f"{_action(attempt, time.phase)}-{field}",
            "@type": "PropertyValue",
            "name": name,
            "propertyID": f"{_QUANTITIES}-{field}",
            "unitCode": f"{_UNITS}/{unit}",
            "value": value,
        }
        for field, (name, value, unit) in found.items()
        if value is not None and not time.kept
    ]


def _status(end: End) -> str:
    done = end.reason is Reason.SUCCEEDED
    return f"http://schema.org/{'Completed' if done else 'Failed'}ActionStatus"


def _made_by(path: str, attempt: int, phase: str) -> bool:
    """Whether a phase wrote a file: by its name, or the name of its directory."""
    below = path.removeprefix(f"attempts/{attempt}/")
    return below != path and below.split("/")[0].split(".")[0] == phase
