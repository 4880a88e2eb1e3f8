"""docs/json.md against the code: every struct's fields, their order and types; every command.

That what commands print fits their tables is seen wherever a test runs one
(`tests.support.commands.jobspec_json`).
"""

from __future__ import annotations

from typing import Any

import click
import msgspec
import pytest

from jobspec.benchmarks import protocol
from jobspec.bundle import replay, write_bundle
from jobspec.bundle.findings import BundleFinding, VerifiedBundle
from jobspec.cli import COMMANDS, cli
from jobspec.cli.benchmarks import BenchmarkRow
from jobspec.cli.compare import Compared
from jobspec.cluster.site import Site
from jobspec.doctor import measurements as doctor
from jobspec.estimates import disk_need, evaluation_time, memory, training_time
from jobspec.maintenance import archive, disk
from jobspec.monitoring import cost, status, workers
from jobspec.queue import admission
from jobspec.records import (
    answers,
    audit,
    evaluation,
    manifest,
    mixture,
    overview,
    queue_files,
    reports,
)
from jobspec.records.attempt import Energy, PhaseTime, Result
from jobspec.records.worker import NodeProbe
from jobspec.relay.verify import Verification
from jobspec.results import calibration, comparison, seeds, table
from tests.support.commands import jobspec_json
from tests.support.json_docs import (
    ABSENT,
    OF_A_STRUCT,
    TABLES,
    TEXT,
    misfit,
    titles_for,
    undocumented,
)

DOCUMENTED: list[type] = [
    BenchmarkRow,
    status.Status, queue_files.Hold, status.JobRow, reports.LossChange,
    status.EndedAttemptRow, workers.WorkerRow, NodeProbe,
    status.JobReport, cost.Cost, cost.PhaseCost, status.AttemptRow, status.LossRow,
    PhaseTime, Energy, Result,
    reports.PrepareReport, reports.DroppedExample, reports.UnrenderedField, reports.Overlap,
    mixture.SourceReport, mixture.TrainedSource,
    reports.TrainReport, reports.TrainingEngine, reports.MemoryUse, reports.Resumed,
    reports.RankChange, reports.ScoringProtocol, reports.EarlyStop,
    audit.Kill, audit.AuditedPart, audit.Divergence, audit.RedrawnBenchmark, audit.DifferentSample,
    manifest.Manifest, manifest.CodeVersion, manifest.UsedDevices, manifest.Seeds,
    manifest.TrainingInputs, manifest.EngineSummary, manifest.PlannedBatch,
    manifest.MicroBatchPlan,
    table.Results, table.ResultRow, table.Score,
    Compared, protocol.Differing, comparison.Difference, seeds.SeedDifference,
    evaluation.Sample, answers.ReadExample,
    calibration.CalibrationRow,
    Verification,
    write_bundle.WrittenBundle, VerifiedBundle, BundleFinding, replay.EnvironmentDifference,
    overview.DataOverview, overview.HistogramBin, overview.Duplicates, overview.NearDuplicate,
    reports.RowReport, reports.DroppedRow, mixture.TokenCounts, reports.Passes,
    training_time.Steps, training_time.TrainingEstimate, memory.Memory,
    evaluation_time.EvaluationEstimate, evaluation_time.BenchmarkEstimate, disk_need.Footprints,
    disk.Room, disk.Usage, archive.Archived, admission.Quarantined, Site,
    doctor.Diagnosis, doctor.Location, doctor.FreeSpace, doctor.Measurements, doctor.Costs,
    doctor.Timing, doctor.ServerClock, doctor.JointMeasurement, doctor.VisibilityLag,
    doctor.RaceResult, doctor.CheckResult, doctor.Recommendation, answers.MachineFact,
]  # fmt: skip
# Objects that commands put together: held against what they print.
PUT_TOGETHER = {
    "Refusals", "Refusal", "NewSpec", "CheckedSpec", "Enqueued", "Fetched", "Calibrated", "Moved",
    "Ended", "Log", "Rescored", "DiskRow",
}  # fmt: skip


def spelled(schema: dict[str, Any], *, many: bool = False) -> str:
    """A JSON Schema in the words of the document."""
    if "anyOf" in schema:
        return " or ".join(spelled(part, many=many) for part in schema["anyOf"])
    if "enum" in schema:
        return "string"
    if not schema.keys() - {"default"}:
        return "any"
    name = schema.get("type") or schema["$ref"].rpartition("/")[2]
    if "prefixItems" in schema:
        return "array of any"
    if name == "array":
        return f"array of {spelled(schema['items'], many=True)}"
    if name == "object" and schema.get("additionalProperties"):
        return f"object of {spelled(schema['additionalProperties'], many=True)}"
    return name + "s" if many and name not in TABLES and name != "null" else name


@pytest.mark.parametrize("struct", DOCUMENTED, ids=lambda struct: struct.__name__)
def test_every_field_is_documented_as_it_is(struct: type) -> None:
    _, kinds = msgspec.json.schema_components([struct], ref_template="#/{name}")
    properties = kinds[struct.__name__]["properties"]
    is_struct = issubclass(struct, msgspec.Struct)
    fields = msgspec.structs.fields(struct) if is_struct else ()
    absent = {field.encode_name for field in fields if field.default is msgspec.UNSET}
    expected = {
        name: spelled(schema) + (ABSENT if name in absent else "")
        for name, schema in properties.items()
    }
    found = TABLES[struct.__name__]
    assert found == expected
    assert list(found) == list(expected), "in the order of the output"


def test_every_table_belongs_to_something_that_is_printed() -> None:
    names = {title for title in TABLES if not title.startswith("`")}
    assert names == {struct.__name__ for struct in DOCUMENTED} | PUT_TOGETHER


def commands() -> list[str]:
    found: list[str] = []
    for name in COMMANDS:
        inner = getattr(cli.get_command(click.Context(cli), name), "commands", None)
        found += [name] if inner is None else [f"{name} {each}" for each in inner]
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_says_what_it_prints(command: str) -> None:
    if command in OF_A_STRUCT or command == "schema":
        assert f"`jobspec {command}`" in TEXT
    else:
        assert titles_for(command.split()), f"no table for {command}"


def test_what_does_not_fit_is_seen() -> None:
    assert undocumented(["hold"], {"schema": 1, "hold": True, "reason": ""}) is None
    assert "reason" in (undocumented(["hold"], {"schema": 1, "hold": True}) or "")
    assert "$.hold is 1" in (undocumented(["hold"], {"schema": 1, "hold": 1, "reason": ""}) or "")
    assert misfit({"a": 1.5, "b": None}, "object of numbers or null") is None
    assert misfit({"a": [1, "2"]}, "object of array of integers") == "$.a.1 is '2', not integers"
    assert misfit(None, "Room or null") is None and misfit({}, "Room or null") is not None


def test_hold_and_quarantine(tmp_path: Any) -> None:
    """Commands whose output no other test reads; `jobspec_json` holds it against the tables."""
    root = tmp_path / "root"
    spec = tmp_path / "specs"
    made = jobspec_json("eval", "--checkpoint", "a/b", "--root", root)
    assert jobspec_json("hold", "--root", root)["hold"] is True
    assert jobspec_json("release", "--root", root)["hold"] is False
    assert jobspec_json("quarantine", "add", "n1", "--root", root)["state"] == "quarantined"
    (mark,) = jobspec_json("quarantine", "list", "--root", root)["quarantine"]
    assert mark["host"] == "n1"
    assert jobspec_json("quarantine", "clear", "n1", "--root", root)["state"] == "cleared"
    assert jobspec_json("prioritize", made["job"], "7", "--root", root)["errors"] == []
    assert jobspec_json("cancel", made["job"], "--root", root)["jobs"][0]["state"] == "cancelled"
    assert jobspec_json("workers", "--root", root)["workers"] == []
    assert jobspec_json("calibrate", "--all", "--write", spec, "--root", root)["specs"]
