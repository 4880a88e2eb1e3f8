"""Writes the bundle of a job: a directory and a `.tar.gz`."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobspec.bundle import contents, crate, sums, tar_gz
from jobspec.bundle.about import AboutBundle, HashedFile, UsedData
from jobspec.bundle.cost_checks import BundledRun
from jobspec.bundle.redaction import Redactor, forms
from jobspec.errors import JobspecError, TransitionRefused
from jobspec.monitoring import cost
from jobspec.queue import heartbeat
from jobspec.queue.entries import read_record
from jobspec.queue.job import Job
from jobspec.records import base as records
from jobspec.records import metrics
from jobspec.records.attempt import ClaimRecord, End
from jobspec.records.base import FINAL
from jobspec.records.manifest import Manifest
from jobspec.records.phases import PREPARE
from jobspec.records.queue_files import Enqueued
from jobspec.records.reports import PrepareReport
from jobspec.records.worker import WorkerRecord
from jobspec.spec import parsing
from jobspec.spec.schema import DataSpec
from jobspec.storage import fs, tempfiles
from jobspec.storage.disk_errors import disk_full
from jobspec.storage.layout import BundlePaths, PreparedPaths
from jobspec.version import installed_version

_CHUNK = 1 << 20
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")  # not in the name of a file of a bundle


@dataclass(frozen=True)
class WrittenBundle:
    """A bundle that was written.

    Attributes:
        fingerprint: the SHA-256 of its sums. Who knows it knows whether a bundle is this one.
        replaced: how many texts each placeholder replaced.
    """

    job: str
    directory: str
    tar: str
    files: int
    size: int
    tar_size: int
    fingerprint: str
    replaced: dict[str, int]


def write(job: Job, output: Path, *, weights: bool = False, data: bool = False) -> WrittenBundle:
    """Write `output/<job>.bundle` and `output/<job>.bundle.tar.gz`.

    Args:
        weights: include the trained weights.
        data: include the data files of the spec.

    Raises:
        TransitionRefused: the job has not ended.
        JobspecError: there is such a bundle, or something can't be included.
        DiskFull, OSError: what was written was deleted.
    """
    if job.state not in FINAL:
        raise TransitionRefused(f"`{job.id}` is {job.state}", hint="bundle it when it has ended")
    place = output / f"{job.id}.bundle"
    tar = place.with_name(f"{place.name}.tar.gz")
    for path in (place, tar):
        if path.exists():
            raise JobspecError("exists", file=path, hint="name another --output")
    output.mkdir(parents=True, exist_ok=True)
    building = tempfiles.beside(place)
    try:
        with disk_full(place):
            writer = _Writer(job, BundlePaths(building), weights=weights, data=data)
            fingerprint = writer.write()
            packed = tempfiles.beside(tar)
            with packed.open("wb") as stream:
                tar_gz.write(stream, _members(writer.paths, place.name))
            building.rename(place)
            packed.rename(tar)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        for rest in output.glob(f".tmp-*-{tar.name}"):
            if tempfiles.target_of(rest.name) == tar.name:
                rest.unlink(missing_ok=True)
        raise
    return WrittenBundle(
        job=job.id,
        directory=str(place),
        tar=str(tar),
        files=len(writer.files) + 2,
        size=sum(each.size for each in writer.files.values()),
        tar_size=tar.stat().st_size,
        fingerprint=fingerprint,
        replaced=dict(writer.total),
    )


class _Writer:
    """Writes the files of one bundle into a directory."""

    def __init__(self, job: Job, paths: BundlePaths, *, weights: bool, data: bool) -> None:
        self.job = job
        self.paths = paths
        self.files: dict[str, HashedFile] = {}
        self._weights = weights
        self._data = data
        self._redactor = redactor_of(job)
        self._replaced: dict[str, dict[str, int]] = {}
        self.total: dict[str, int] = {}

    def write(self) -> str:
        """Write everything. Returns the fingerprint."""
        for path, content in contents.of_job(self.job, self._redactor):
            self._put(path, content)
        model = self._model()
        used = tuple(self._used_data())
        run = BundledRun(self.paths, self.job.attempt, self.job.state)
        about = AboutBundle(
            job=self.job.id,
            attempt=self.job.attempt,
            state=self.job.state.value,
            version=installed_version("jobspec") or "",
            weights=model,
            weights_included=self._weights and bool(model),
            data=used,
            prepared=self._prepared(),
            log_bytes=contents.LOG_BYTES,
            replaced=self._replaced,
            omitted=self._omitted(model, used),
            cost=run.cost(cost.factor_of_user()),
        )
        self._put(Path(BundlePaths.ABOUT), records.encode(about))
        self.files = dict(sorted(self.files.items()))
        described = crate.metadata(
            about, parsing.decode(fs.read(self.paths.spec)), self.files, self._runs()
        )
        self._write(Path(BundlePaths.CRATE), described)
        hashed = {path: each.sha256 for path, each in self.files.items()}
        hashed[BundlePaths.CRATE] = hashlib.sha256(described).hexdigest()
        listed = sums.encode(hashed)
        self._write(Path(BundlePaths.SUMS), listed)
        return hashlib.sha256(listed).hexdigest()

    def _put(self, path: Path, content: bytes) -> None:
        """Write one file, and note its hash and what was replaced in it."""
        self._write(path, content)
        digest = hashlib.sha256(content).hexdigest()
        self._note(path, len(content), digest)

    def _note(self, path: Path, size: int, digest: str) -> None:
        name = path.as_posix()
        self.files[name] = HashedFile(path=name, size=size, sha256=digest)
        counts, self._redactor.counts = self._redactor.counts, type(self._redactor.counts)()
        if counts:
            self._replaced[name] = dict(sorted(counts.items()))
            for placeholder, number in counts.items():
                self.total[placeholder] = self.total.get(placeholder, 0) + number

    def _write(self, path: Path, content: bytes) -> None:
        target = self.paths.dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def _model(self) -> tuple[HashedFile, ...]:
        """The hash of every file of the weights; they are copied if that was asked for."""
        found: list[HashedFile] = []
        for path in contents.model_files(self.job.paths.attempt(self.job.attempt)):
            relative = path.relative_to(self.job.paths.dir)
            changed = contents.model_file(path, self._redactor) if self._weights else None
            if changed is not None:
                self._put(relative, changed)
                continue
            is_weights = path.suffix == ".safetensors"
            if not (is_weights or self._weights):
                continue
            target = self.paths.dir / relative if self._weights else None
            size, digest = _hash_and_copy(path, target)
            if self._weights:
                self._note(relative, size, digest)
            if is_weights:
                each = HashedFile(path=relative.as_posix(), size=size, sha256=digest)
                found.append(each)
        return tuple(found)

    def _used_data(self) -> Iterator[UsedData]:
        spec = self.job.spec.data
        for number, (path, sha256) in enumerate(_data_files(spec), start=1):
            name = _UNSAFE.sub("_", self._redactor.text(Path(path).name))
            included = None
            if self._data:
                target = BundlePaths(Path()).data / f"{number}-{name}"
                self._put(target, contents.data_file(Path(path), self._redactor))
                included = target.as_posix()
            yield UsedData(name=name, sha256=sha256, path=included)
        self._redactor.counts.clear()

    def _prepared(self) -> dict[str, str]:
        """The hashes of the tokenized rows, if the cache still has them."""
        report = PREPARE.read(self.job.paths.attempt(self.job.attempt))
        if not isinstance(report, PrepareReport) or not report.dir:
            return {}
        cached = PreparedPaths(self.job.root.root / report.dir)
        splits = {"train": cached.train, "eval": cached.eval}
        found: dict[str, str] = {}
        for name, split in splits.items():
            with contextlib.suppress(FileNotFoundError):
                found[name] = _hash_and_copy(split.rows, None)[1]
        return found

    def _omitted(self, model: tuple[HashedFile, ...], used: tuple[UsedData, ...]) -> dict[str, str]:
        left: dict[str, str] = {}
        if model and not self._weights:
            left["weights"] = "named by their SHA-256; `--weights` includes them"
        if self.job.spec.train is not None and not model:
            left["weights"] = "the root no longer has them"
        if any(each.path is None for each in used):
            left["data"] = "named by its SHA-256; `--data` includes it"
        return left

    def _runs(self) -> dict[int, tuple[Manifest, End]]:
        runs: dict[int, tuple[Manifest, End]] = {}
        for attempt in metrics.attempts(self.paths):
            end = records.read(attempt.end, End)
            if end is not None:
                runs[attempt.number] = records.read(attempt.manifest, Manifest) or Manifest(), end
        return runs


def redactor_of(job: Job) -> Redactor:
    """What replaces everything that the files of a job's root say of people and machines."""
    home = Path.home()
    directories = dict.fromkeys(forms(home), "<home>")
    directories |= dict.fromkeys(forms(job.root.root), "<root>")
    directories |= dict.fromkeys((path for user in _users(job) for path in _homes(user)), "<home>")
    known = {str(job.spec.model.revision)}
    for attempt in metrics.attempts(job.paths):
        manifest = records.read(attempt.manifest, Manifest) or Manifest()
        known |= {str(manifest.code.commit), str(manifest.inputs.key)}
        prepared = PREPARE.read(attempt)
        known |= {prepared.key} if isinstance(prepared, PrepareReport) else set[str]()
    return Redactor(
        directories=directories,
        users=_users(job),
        hosts=_hosts(job),
        environment=os.environ,
        known=known,
    )


def _users(job: Job) -> list[str]:
    """Who enqueued the job, who owns it, and who runs this command."""
    names = {job.user or "", *(os.environ.get(n, "") for n in ("USER", "LOGNAME", "SUDO_USER"))}
    with contextlib.suppress(KeyError, OSError):
        names.add(job.paths.dir.owner())
    with contextlib.suppress(KeyError, OSError, ImportError):
        names.add(getpass.getuser())
    names.add(Path.home().name)
    return sorted(names - {""})


def _homes(user: str) -> Iterator[str]:
    with contextlib.suppress(RuntimeError):
        yield str(Path(f"~{user}").expanduser())


def _hosts(job: Job) -> list[str]:
    """This machine, all nodes of the job's attempts and those of all workers of the root."""
    hosts = [platform.node()]
    enqueued = read_record(job.paths.enqueue, Enqueued)
    hosts += [enqueued.host] if enqueued is not None else []
    for attempt in metrics.attempts(job.paths):
        for path, kind in (
            (attempt.claim, ClaimRecord),
            (attempt.manifest, Manifest),
            (attempt.end, End),
        ):
            record = records.read(path, kind)
            hosts += [record.host] if record is not None else []
        hosts += [str(row.get("slowest_host", "")) for row in metrics.read_rows(attempt.metrics)]
    for name in fs.list_names(job.root.workers):
        if worker := heartbeat.parse_record(name):
            record = read_record(job.root.worker(worker), WorkerRecord)
            hosts += [record.host] if record is not None else []
    return hosts


def _data_files(spec: DataSpec | None) -> list[tuple[str, str | None]]:
    if spec is None:
        return []
    single = [(spec.path, spec.sha256)] if spec.path else []
    return single + [(source.path, source.sha256) for source in spec.sources]


def _hash_and_copy(path: Path, target: Path | None) -> tuple[int, str]:
    """The size and the SHA-256 of a file, which is copied if there is a target."""
    digest, size = hashlib.sha256(), 0
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as stream, target.open("wb") if target else _nowhere() as copy:
        while block := stream.read(_CHUNK):
            digest.update(block)
            size += len(block)
            if copy is not None:
                copy.write(block)
    return size, digest.hexdigest()


@contextlib.contextmanager
def _nowhere() -> Generator[None]:
    yield


def _members(paths: BundlePaths, top: str) -> Iterator[tuple[str, int, Any]]:
    """Every file with its name in the tar, sorted."""
    for path in sorted(p for p in paths.dir.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            name = f"{top}/{path.relative_to(paths.dir).as_posix()}"
            yield name, path.stat().st_size, stream
