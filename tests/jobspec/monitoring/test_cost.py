"""What a job cost: from the phases of its attempts to the line of `show`."""

from __future__ import annotations

import msgspec
import pytest

from jobspec.errors import JobspecError
from jobspec.monitoring.cost import CO2, cost, spelled
from jobspec.queue.queue import Queue
from jobspec.records.attempt import Energy, PhaseTime
from jobspec.records.base import Reason
from tests.support.commands import jobspec, jobspec_json
from tests.support.costs import KWH, finish, interrupted_then_finished
from tests.support.queues import claim_next, ended, enqueue_and_claim
from tests.support.specs import tuned_spec


def test_hours_and_joules_are_added_up_over_attempts(queue: Queue) -> None:
    found = cost(interrupted_then_finished(queue, Energy(gpu_j=2 * KWH, cpu_j=KWH)))
    assert found.gpu_h == pytest.approx((900 + 3600 + 1800 + 30) * 4 / 3600)
    assert found.lost_gpu_h == {"node": pytest.approx(1.0)}
    assert (found.gpu_j, found.cpu_j, found.measured_s) == (6 * KWH, 3 * KWH, 6300)
    assert found.j_per_token == pytest.approx(4 * KWH / 1_000_000)
    assert found.j_per_sample == pytest.approx(2 * KWH / 960)
    assert found.co2_g is None
    assert spelled(found) == (
        "7.03 GPU-hours (1 lost: bad node), 6 kWh by GPUs, 3 kWh by the node's CPUs, "
        "14.4 J per trained token, 7,500 J per sample"
    )


def test_what_was_not_measured_says_so(queue: Queue) -> None:
    found = cost(interrupted_then_finished(queue, None))
    assert (found.gpu_j, found.cpu_j, found.j_per_token) == (None, None, None)
    assert spelled(found) == "7.03 GPU-hours (1 lost: bad node), energy not measured"


def test_what_was_measured_in_part_says_so(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    claim.end(
        msgspec.structs.replace(
            ended(Reason.NODE), phases=(PhaseTime(phase="train", wall_s=1800),), overhead_s=0
        )
    )
    claim.requeue("node")
    finish(claim_next(queue), energy=Energy(cpu_j=7200))
    (job,) = queue.jobs()
    found = cost(job)
    assert found.j_per_token is None  # the lost training is not in the sum
    assert "14,400 J by the node's CPUs (measured for 75% of the time)" in spelled(found)


def test_carbon_needs_the_users_factor(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CO2, "400")
    found = cost(interrupted_then_finished(queue, Energy(gpu_j=KWH)))
    assert (found.co2_g, found.co2_g_per_kwh) == (pytest.approx(1200), 400)
    assert spelled(found).endswith("1.2 kg CO2")
    monkeypatch.setenv(CO2, "a lot")
    with pytest.raises(JobspecError, match=r"JOBSPEC_CO2_G_PER_KWH is `a lot`"):
        cost(queue.jobs()[0])


def test_show_says_it(queue: Queue) -> None:
    job = interrupted_then_finished(queue, Energy(gpu_j=2 * KWH))
    root = queue.paths.root
    assert "6 kWh by GPUs" in jobspec("show", job.id, "--root", root).stdout
    report = jobspec_json("show", job.id, "--root", root)
    assert report["cost"]["gpu_j"] == 6 * KWH
    assert [part["phase"] for part in report["cost"]["phases"]] == ["train", "eval", "overhead"]
