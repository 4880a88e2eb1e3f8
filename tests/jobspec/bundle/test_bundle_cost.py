"""The cost of a run in its bundle: stated, described in the crate, and verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.bundle import verification, write_bundle
from jobspec.bundle.findings import BundleFinding
from jobspec.monitoring.cost import CO2, cost
from jobspec.queue.queue import Queue
from jobspec.records.attempt import Energy
from jobspec.storage.layout import BundlePaths
from tests.support.bundles import edit, unpack
from tests.support.costs import KWH, interrupted_then_finished

END = "attempts/2/end.json"


def bundle_of(queue: Queue, directory: Path, energy: Energy | None) -> BundlePaths:
    job = interrupted_then_finished(queue, energy)
    job.paths.final_model.mkdir(parents=True, exist_ok=True)  # so that there is a model card
    return BundlePaths(Path(write_bundle.write(job, directory / "out").directory))


def finding(bundle: BundlePaths, check: str = "cost") -> BundleFinding:
    found = [each for each in verification.verify(bundle.dir).findings if each.check == check]
    return next((each for each in found if each.outcome == "differs"), found[-1])


def test_the_bundle_states_what_show_does(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CO2, "400")
    bundle = bundle_of(queue, tmp_path, Energy(gpu_j=2 * KWH))
    shown = msgspec.to_builtins(cost(queue.jobs()[0]))
    assert json.loads(bundle.about.read_bytes())["cost"] == shown
    assert (shown["gpu_j"], shown["lost_gpu_h"]) == (6 * KWH, {"node": 1.0})
    text = "7.03 GPU-hours (1 lost: bad node), 6 kWh by GPUs, 14.4 J per trained token"
    assert text in bundle.model_card.read_text()
    monkeypatch.delenv(CO2)  # who verifies has another factor, or none
    found = finding(bundle)
    assert found.outcome == "ok" and found.detail.startswith(text) and "2.4 kg CO2" in found.detail


def test_the_crate_has_the_energy_of_each_phase(queue: Queue, tmp_path: Path) -> None:
    bundle = bundle_of(queue, tmp_path, Energy(gpu_j=2 * KWH))
    graph = {each["@id"]: each for each in json.loads(bundle.crate.read_bytes())["@graph"]}
    action = graph["#attempt-2-eval"]
    used = [graph[each["@id"]] for each in action["resourceUsage"]]
    assert {each["@type"] for each in used} == {"PropertyValue"}
    values = {each["propertyID"].rpartition("-")[2]: each["value"] for each in used}
    assert values == {"wall_s": 1800.0, "gpu_h": 2.0, "gpu_j": 2 * KWH}
    assert {each["unitCode"].rpartition("/")[2] for each in used} == {"SEC", "HR", "J"}


def test_not_measured_is_not_zero(queue: Queue, tmp_path: Path) -> None:
    bundle = bundle_of(queue, tmp_path, None)
    assert json.loads(bundle.about.read_bytes())["cost"]["gpu_j"] is None
    assert "energy not measured" in finding(bundle).detail
    graph = json.loads(bundle.crate.read_bytes())["@graph"]
    assert not [each for each in graph if each["@id"].endswith("_j")]
    (action,) = [each for each in graph if each["@id"] == "#attempt-2-train"]
    assert action["description"].endswith("energy not measured")
    assert "energy not measured" in bundle.model_card.read_text()

    def as_zero(about: dict[str, Any]) -> None:
        about["cost"]["gpu_j"] = 0.0

    edit(bundle, "bundle.json", as_zero)
    found = finding(bundle)
    assert (found.outcome, found.file) == ("differs", "bundle.json")
    assert found.detail == "`cost.gpu_j` is stated as 0.0; the attempts give not measured"


def less_energy(end: dict[str, Any]) -> None:
    end["phases"][0]["energy"]["gpu_j"] /= 2


def fewer_hours(about: dict[str, Any]) -> None:
    about["cost"]["phases"][0]["gpu_h"] -= 1


def no_loss(about: dict[str, Any]) -> None:
    about["cost"]["lost_gpu_h"] = {"\x1b[2J": 0.0}


def more_than_it_ran(end: dict[str, Any]) -> None:
    end["phases"][0]["wall_s"] += 60


@pytest.mark.parametrize(
    ("file", "change", "place", "expected"),
    [
        (END, less_energy, "bundle.json", "`cost.gpu_j` is stated as 21600000.0; the attempts"),
        ("bundle.json", fewer_hours, "bundle.json", "`cost.phases[0].gpu_h` is stated as 4.0"),
        ("bundle.json", no_loss, "bundle.json", "`cost.lost_gpu_h.node` is stated as not"),
        (END, more_than_it_ran, END, "`wall_s` is 5430.0; its phases and `overhead_s` are 5490.0"),
    ],
)
def test_what_the_attempts_do_not_give_differs(
    queue: Queue, tmp_path: Path, file: str, change: Any, place: str, expected: str
) -> None:
    bundle = bundle_of(queue, tmp_path, Energy(gpu_j=2 * KWH))
    assert (finding(bundle).outcome, finding(bundle, "times").outcome) == ("ok", "ok")
    edit(bundle, file, change)
    found = finding(bundle, "cost" if place == "bundle.json" else "times")
    assert (found.outcome, found.file) == ("differs", place)
    assert expected in found.detail and "\x1b" not in found.detail


def test_an_older_bundle_has_none(tmp_path: Path) -> None:
    found = finding(unpack(tmp_path))
    assert (found.outcome, found.detail) == (
        "unknown", "not stated: an older jobspec wrote the bundle",
    )  # fmt: skip
