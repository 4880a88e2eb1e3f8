"""A bundle of a real job of `jobspec demo`, and ways to change it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from jobspec.bundle import sums, verification, write_bundle
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records import evaluation
from jobspec.records.attempt import Result
from jobspec.records.evaluation import Generation, sample_seed
from jobspec.spec import parsing
from jobspec.storage.layout import BundlePaths
from tests.support.queues import claim_next

DEMO = Path(__file__).parents[1] / "data" / "demo.bundle.tar.gz"
BENCHMARK = "attempts/1/eval/aime_demo"


def unpack(directory: Path, bundle: Path = DEMO) -> BundlePaths:
    """The bundle as a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    # Not tarfile: with a filter it needs Python 3.11.4, and without one Python 3.12 warns.
    subprocess.run(["tar", "-x", "--no-same-owner", "-f", bundle, "-C", directory], check=True)
    (found,) = directory.iterdir()
    return BundlePaths(found)


def sign(bundle: BundlePaths) -> None:
    """Write crate and sums again, as a forger does."""
    crate = json.loads(bundle.crate.read_bytes())
    files = {
        path.relative_to(bundle.dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in bundle.dir.rglob("*")
        if path.is_file() and path not in (bundle.sums, bundle.crate)
    }
    described = {entity["@id"]: entity for entity in crate["@graph"]}
    for path, digest in files.items():
        entity = described.get(path)
        if entity is None:
            crate["@graph"].append(entity := {"@id": path, "@type": "File"})
        entity["sha256"] = digest
    bundle.crate.write_text(json.dumps(crate))
    files[BundlePaths.CRATE] = hashlib.sha256(bundle.crate.read_bytes()).hexdigest()
    bundle.sums.write_bytes(sums.encode(files))


def edit(bundle: BundlePaths, name: str, change: Callable[[Any], None]) -> None:
    """Change a JSON file, or the list of a JSONL file's rows, and sign the bundle."""
    path = bundle.dir / name
    if path.suffix == ".jsonl":
        value: Any = [json.loads(line) for line in path.read_text().splitlines()]
        change(value)
        path.write_text("".join(json.dumps(row) + "\n" for row in value))
    else:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
    sign(bundle)


def nested(*path: Any, to: Any) -> Callable[[Any], None]:
    """A change of one value, for `edit`."""

    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to

    return change


def job_of(bundle: BundlePaths, queue: Queue) -> Job:
    """A job in a queue with the files of a bundle; its spec has the placeholders."""
    job = queue.enqueue(parsing.load(bundle.spec))
    claim = claim_next(queue)
    source = bundle.attempt(1).dir
    for path in sorted(source.rglob("*")):
        target = claim.dir.dir / path.relative_to(source)
        if path.is_file() and path.name != bundle.attempt(1).result.name:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_with_seeds(path, job.id))
    result = records.read(bundle.attempt(1).result, Result)
    assert result is not None
    claim.finish("succeeded", msgspec.structs.replace(result, job=job.id))
    return queue.job(job.id)


def differences(job: Job, directory: Path) -> list[str]:
    """What `verify` finds wrong with a job's own bundle, written into `directory`."""
    write_bundle.write(job, directory)
    found = verification.verify(directory / f"{job.id}.bundle")
    return [f"{each.check}: {each.detail}" for each in found.findings if each.outcome == "differs"]


def _with_seeds(path: Path, job: str) -> bytes:
    """A file's bytes; samples have the seeds that they would have in this job."""
    if not path.name.startswith("generations-"):
        return path.read_bytes()
    rows = [msgspec.json.decode(line, type=Generation) for line in path.read_bytes().splitlines()]
    benchmark = path.parent.name
    return evaluation.to_lines(
        msgspec.structs.replace(row, seed=sample_seed(job, benchmark, row.question, row.sample))
        for row in rows
    )
