"""Provenance: what an attempt's manifest.json holds, and that `jobspec show` prints it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jobspec import version
from jobspec.queue.queue import Queue
from jobspec.records.base import Record
from jobspec.records.manifest import Manifest, Seeds
from jobspec.records.reports import PrepareReport, TrainingEngine, TrainReport
from jobspec.storage import fs
from tests.support.commands import jobspec, jobspec_json, run_checked
from tests.support.queues import claim_next
from tests.support.specs import base_spec, train_spec
from worker import phases
from worker.host import identity
from worker.host.devices import WorkerDevices
from worker.launch import manifest
from worker.launch.plan import BatchPlan, plan_batch
from worker.training.deepspeed_config import deepspeed_config

SPEC = train_spec(
    "org/m", data__sha256="d" * 64, train={"seed": 7, "zero_stage": 3}, eval={"seed": 9}
)
PREPARED = PrepareReport(key="k", data_sha256="d" * 64, template_sha256="t" * 64, rows_train=5)


def finished(**reports: Record) -> dict[str, Record]:
    """What the reports of finished phases say, by the table of phases."""
    fields: dict[str, Record] = {}
    for name, report in reports.items():
        facts = phases.named(name).manifest_facts
        assert facts is not None
        fields |= facts(report)
    return fields


def test_it_holds_what_is_needed_to_do_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBSPEC_IMAGE_SHA256", "e" * 64)
    devices = WorkerDevices(4, "cuda", name="H100")
    plan = plan_batch(SPEC, devices)
    settings = deepspeed_config(SPEC, plan.micro, on_gpu=True)
    facts = manifest.manifest(
        devices, plan, "w", SPEC, finished(prepare=PREPARED), deepspeed=settings
    )
    assert facts.seeds == Seeds(train=7, eval=9)
    inputs = msgspec.to_builtins(facts.inputs)
    prepared = msgspec.to_builtins(PREPARED)
    assert inputs == {name: prepared[name] for name in inputs}
    assert len(inputs) == 6
    assert facts.deepspeed == settings
    assert facts.plan is not None and facts.plan.world_size == 4
    assert facts.device.name == "H100"
    assert facts.image_sha256 == "e" * 64
    assert facts.packages["msgspec"] == msgspec.__version__
    assert msgspec.to_builtins(facts.code).keys() in ({"commit", "dirty"}, set[str]())
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Manifest) == facts


def test_before_the_rows_are_prepared_nothing_is_said_of_them() -> None:
    facts = manifest.manifest(WorkerDevices(1), None, "w", SPEC)
    written = msgspec.to_builtins(facts)
    assert written["inputs"] == written["engine"] == {}


def test_the_driver_is_read_where_there_is_one(tmp_path: Path) -> None:
    said = tmp_path / "version"
    assert manifest.driver(said) is None
    said.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build\n"
        "GCC version:  gcc version 12.3.0\n"
    )
    assert manifest.driver(said) == "580.82.07"
    said.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun 6\n")
    assert manifest.driver(said) == "535.54.03"


def test_the_cpu_s_model_is_what_the_kernel_says(tmp_path: Path) -> None:
    said = tmp_path / "cpuinfo"
    assert identity.cpu(said) == platform.machine()
    said.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9654\nprocessor\t: 1\n")
    assert identity.cpu(said) == "AMD EPYC 9654"


def test_the_digest_of_an_image_is_what_stands_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBSPEC_IMAGE_SHA256", raising=False)
    image = tmp_path / "worker.sif"
    assert manifest.image_digest(str(image)) is None
    Path(f"{image}.sha256").write_text(f"{'a' * 64}  worker.sif\n")
    assert manifest.image_digest(str(image)) == "a" * 64


def test_show_prints_the_newest_attempts(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    claim = claim_next(queue)
    engine = TrainingEngine(name="DeepSpeedEngine", attention="flash-attn 3 3.0.0")
    plan = BatchPlan(2, 1, 4)
    facts = manifest.manifest(
        WorkerDevices(2),
        plan,
        "w",
        SPEC,
        finished(prepare=PREPARED, train=TrainReport(steps=3, engine=engine)),
    )
    fs.publish(claim.dir.manifest, msgspec.json.encode(facts))
    said = jobspec("show", job.id, "--all", "--root", queue.paths.root).stdout
    for expected in (
        "PROVENANCE",
        "inputs.template_sha256",
        "t" * 64,
        "plan.world_size",
        "engine.attention",
        "flash-attn 3 3.0.0",
        "msgspec",
    ):
        assert expected in said
    assert jobspec_json("show", job.id, "--root", queue.paths.root)[
        "manifest"
    ] == msgspec.json.decode(msgspec.json.encode(facts))
    fs.publish(claim.dir.manifest, b'{"torn')
    assert jobspec_json("show", job.id, "--root", queue.paths.root)["manifest"] is None


def test_versions_are_read_again_when_another_one_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for number, release in enumerate(["9.1", "9.2"]):
        for old in tmp_path.glob("*.dist-info"):
            old.rename(tmp_path / f"removed-{number}")
        place = tmp_path / f"liger_kernel-{release}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: liger-kernel\nVersion: {release}\n"
        )
        os.utime(tmp_path, ns=(number, number))  # two changes within one tick of the clock
        assert version.package_versions()["liger-kernel"] == release


def test_an_uncommitted_change_makes_the_code_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBSPEC_COMMIT", raising=False)
    monkeypatch.setattr(version, "__file__", str(tmp_path / "version.py"))
    assert version.code_version() == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert version.code_version() == {}, "a copy inside the checkout of something else"
    (tmp_path / "version.py").touch()
    subprocess.run([*git, "add", "version.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    head = run_checked([*git, "rev-parse", "HEAD"], cwd=tmp_path)
    assert version.code_version() == {"commit": head.strip(), "dirty": False}
    (tmp_path / "new.py").touch()
    assert version.code_version()["dirty"] is True
