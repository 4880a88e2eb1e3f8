"""`jobspec results --cost`: the same figures as `show`, in every format."""

from __future__ import annotations

import csv
import io
import re

import msgspec
import pytest

import jobspec as package
from jobspec.monitoring.cost import CO2
from jobspec.queue.queue import Queue
from jobspec.records.attempt import Energy, PhaseTime
from jobspec.records.base import Reason
from tests.support.commands import jobspec, jobspec_json
from tests.support.costs import KWH, finish, interrupted_then_finished
from tests.support.queues import claim_next, ended, enqueue_and_claim
from tests.support.specs import base_spec, tuned_spec

TITLES = ("GPU-H", "LOST", "KWH", "J/TOKEN", "J/SAMPLE")


def runs(queue: Queue) -> None:
    """One measured, one not, one in part; and an untrained model."""
    interrupted_then_finished(queue, Energy(gpu_j=2 * KWH, cpu_j=KWH), "measured")
    interrupted_then_finished(queue, None, "unmeasured")
    claim = enqueue_and_claim(queue, tuned_spec(name="partly"))
    phases = (PhaseTime(phase="train", wall_s=1800),)
    claim.end(msgspec.structs.replace(ended(Reason.NODE), phases=phases, overhead_s=0))
    claim.requeue("node")
    finish(claim_next(queue), energy=Energy(cpu_j=0.5 * KWH))
    claim = enqueue_and_claim(queue, base_spec(name="base"))
    finish(claim, energy=Energy(gpu_j=0.0), trains=False)


def table(text: str) -> dict[str, list[str]]:
    """The cells of each row by its run's name, and of the heads by `""`."""
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
    rows = [re.split(r" *\| *", line) for line in lines]
    return {"": rows[0]} | {row[-1].rpartition("-")[0]: row for row in rows[2:]}


def test_every_format_has_the_figures(queue: Queue) -> None:
    runs(queue)
    root = queue.paths.root
    shown = jobspec("results", "--cost", "--markdown", "--root", root).stdout
    rows = table(shown)
    first = rows[""].index("GPU-h")
    cells = {name: row[first : first + 5] for name, row in rows.items()}
    assert cells["measured"] == ["7.03", "1", "6", "14.4", "7,500"]
    assert cells["unmeasured"] == ["7.03", "1", "–", "–", "–"]
    assert cells["partly"] == ["6.03", "0", "≥ 1", "–", "1,875"]
    assert cells["base"] == ["2.03", "0", "0", "", "0"], "0 is not the same as not measured"
    assert "GPU-hours: 1 lost: bad node" in shown and "– not measured" in shown
    latex = jobspec("results", "--cost", "--latex", "--root", root).stdout
    assert r"$\geq$ 1" in latex and "J/token" in latex
    found = jobspec_json("results", "--cost", "--root", root)
    costs = {row["name"]: row["cost"] for row in found["results"]}
    assert costs["measured"]["lost_gpu_h"] == {"node": 1.0}
    assert costs["unmeasured"]["gpu_j"] is None and costs["base"]["gpu_j"] == 0.0


def test_csv_and_python_have_each_field(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    runs(queue)
    root = queue.paths.root
    text = jobspec("results", "--cost", "--csv", "--root", root).stdout
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(text))}
    assert (rows["measured"]["kwh"], rows["measured"]["lost_gpu_h/node"]) == ("6.0", "1.0")
    assert (rows["unmeasured"]["kwh"], rows["base"]["kwh"]) == ("", "0.0")
    assert rows["base"]["lost_gpu_h/node"] == "0.0" and rows["measured"]["bench/aime24/low"]
    monkeypatch.setenv(CO2, "100")
    listed = {row["name"]: row for row in package.results(root, cost=True)}
    assert (listed["measured"]["co2_g"], listed["unmeasured"]["kwh"]) == (900.0, None)
    assert len({tuple(row) for row in listed.values()}) == 1, "the same keys"
    html = package.results(root, cost=True)._repr_html_()
    assert "J/token" in html and "– not measured" in html


def test_without_the_option_nothing_is_shown(queue: Queue) -> None:
    interrupted_then_finished(queue, Energy(gpu_j=KWH))
    root = queue.paths.root
    assert "kWh" not in jobspec("results", "--root", root).stdout
    assert jobspec_json("results", "--root", root)["results"][0]["cost"] is None
    assert "kwh" not in package.results(root)[0]


def test_80_columns_are_enough(queue: Queue) -> None:
    runs(queue)
    shown = jobspec("results", "--cost", "--root", queue.paths.root, COLUMNS="80").stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(title in lines[0] for title in ("MODEL", "AIME24", *TITLES)), lines[0]
