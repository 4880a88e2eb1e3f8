"""Whom Slurm's word makes dead: `squeue` and `scontrol` are stand-ins here, real in integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspec.cluster import autoscale, reaping, site
from jobspec.cluster.scheduler import SchedulerRun
from jobspec.cluster.slurm import Slurm, size_gib
from jobspec.monitoring import status
from jobspec.queue.queue import Queue
from jobspec.records.base import Reason, State
from jobspec.records.worker import WorkerRecord
from tests.support.specs import base_spec

W = "n1-7-0-00000000000000aa"
RUN = SchedulerRun("here", "7", 1)


class Stub:
    """A `squeue` that tells of one job."""

    def __init__(self, directory: Path) -> None:
        self._squeue = directory / "squeue"
        self.program("scontrol", "echo 'ClusterName = here'")
        self.program("sacct", "exit 1")
        self.calls = directory / "calls"
        self.says("7 RUNNING 1 jobspec")

    def program(self, name: str, script: str) -> None:
        file = self._squeue.with_name(name)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def says(self, *lines: str, code: int = 0) -> None:
        told = "\n".join(lines)
        script = f"#!/bin/sh\necho x >>{self.calls}\ncat <<END\n{told}\nEND\nexit {code}\n"
        self._squeue.write_text(script)
        self._squeue.chmod(0o755)

    def count(self) -> int:
        return self.calls.read_text().count("x") if self.calls.exists() else 0


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return Stub(programs)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("7 COMPLETED 1 jobspec", True),
        ("7 CANCELLED 1 jobspec", True),
        ("7 NODE_FAIL 1 jobspec", True),
        ("7 TIMEOUT 1 jobspec", True),
        ("7 RUNNING 1 jobspec", None),
        ("7 COMPLETING 1 jobspec", None),  # it may still be saving
        ("7 PENDING 2 jobspec", False),
        ("7 RUNNING 2 jobspec", False),
        ("7 COMPLETING 2 jobspec", None),
        ("7 COMPLETED 0 jobspec", None),  # an earlier run of it says nothing of this one
        ("8 COMPLETED 1 jobspec", None),
        ("", None),
    ],
)
def test_only_a_runs_own_state_says_that_it_ended(stub: Stub, line: str, word: bool | None) -> None:
    stub.says(line)
    assert Slurm().ended([RUN]).get(RUN) is word


def test_runs_of_another_cluster_are_ignored(stub: Stub) -> None:
    stub.says("7 COMPLETED 1 jobspec")
    assert Slurm().ended([SchedulerRun("elsewhere", "7", 1)]) == {} and stub.count() == 0


def test_a_silent_controller_is_not_asked_again_for_a_while(stub: Stub) -> None:
    now = [0.0]
    slurm = Slurm(clock=lambda: now[0])
    stub.says(code=1)
    assert slurm.ended([RUN]) == {} and slurm.ended([RUN]) == {} and stub.count() == 1
    assert slurm.elements("jobspec", "ada") is None
    now[0] = 301.0
    stub.says("7 FAILED 1 jobspec")
    assert slurm.ended([RUN]) == {RUN: True}


def running(tmp_path: Path, beat_s: float = 15.0) -> tuple[Queue, list[float]]:
    now = [0.0]
    root = tmp_path / "root"
    queue = Queue.create(root, heartbeat_s=beat_s, lease_s=10 * beat_s, clock=lambda: now[0])
    queue.enqueue(base_spec())
    record = WorkerRecord(
        worker=W, slurm_cluster="here", slurm_job="7", slurm_restart_count=1, host="n1"
    )
    queue.heartbeat(W, record)
    claim = queue.claim(W)
    assert claim is not None
    queue.heartbeat(W, record, job=claim.job)
    return queue, now


def test_a_worker_whose_run_has_ended_is_reaped_at_once(tmp_path: Path, stub: Stub) -> None:
    queue, _ = running(tmp_path)
    queue.reap()
    assert reaping.reap(queue, Slurm()) == []
    stub.says("7 COMPLETED 1 jobspec")
    assert len(reaping.reap(queue, Slurm())) == 1
    (job,) = queue.jobs()
    assert (job.state, job.attempt) == (State.PENDING, 2)


MEMORY = {
    "accounting": (
        "JobId=7 JobState=OUT_OF_MEMORY Restarts=1 MinMemoryNode=4G AllocTRES=cpu=2,mem=4G,node=1",
        "OUT_OF_MEMORY||4G\nOUT_OF_MEMORY|4089446K|\nCOMPLETED|1024K|",
        "it used 3.9 GiB of 4.0 GiB",
    ),
    "no accounting": (
        "JobId=7 JobState=OUT_OF_MEMORY Restarts=1 MinMemoryNode=4000M",
        None,
        "it used all its memory of 3.9 GiB",
    ),
    "a step": ("JobId=7 JobState=FAILED", "FAILED||64Gn\nOUT_OF_MEMORY|61G|", "61.0 GiB of 64.0"),
}


@pytest.mark.parametrize("case", MEMORY)
@pytest.mark.parametrize("phase", ["prepare", "train"])
def test_a_worker_that_slurm_ended_for_memory_ran_out_of_it(
    tmp_path: Path, stub: Stub, case: str, phase: str
) -> None:
    shown, accounting, says = MEMORY[case]
    queue, _ = running(tmp_path)
    queue.reap()
    job = queue.jobs()[0]
    record = WorkerRecord(
        worker=W,
        slurm_cluster="here",
        slurm_job="7",
        slurm_restart_count=1,
        host="n1",
        job=job.id,
        attempt=1,
        phase=phase,
    )
    queue.heartbeat(W, record, job=job.id)
    stub.says(f"7 {shown.split('JobState=')[1].split()[0]} 1 jobspec")
    stub.program(
        "scontrol", f"case $* in *config*) echo ClusterName = here;; *) echo '{shown}';; esac"
    )
    stub.program("sacct", "exit 1" if accounting is None else f"echo '{accounting}'")
    assert reaping.reap(queue, Slurm()) == [job.id]
    (row,) = status.job_report(queue.job(job.id)).attempts[:1]
    assert (row.reason, row.phase, row.host) == ("oom", phase, "n1")
    assert says in row.message and "--mem" in (row.hint or "")
    assert queue.job(job.id).state is State.PENDING


def test_a_run_that_ended_otherwise_stays_lost(tmp_path: Path, stub: Stub) -> None:
    queue, _ = running(tmp_path)
    queue.reap()
    stub.says("7 FAILED 1 jobspec")
    (job,) = reaping.reap(queue, Slurm())
    assert queue.job(job).reason is Reason.LOST


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        ("64G", 64.0),
        ("4000M", 3.90625),
        ("1048576K", 1.0),
        ("1.5T", 1536.0),
        ("64Gn", 64.0),
        ("4Gc", None),
        ("1073741824", 1.0),
        ("0", None),
        ("", None),
        ("UNLIMITED", None),
    ],
)
def test_slurms_sizes(text: str, gib: float | None) -> None:
    assert size_gib(text) == gib


def test_a_later_run_reaps_no_worker_that_sends_heartbeats(tmp_path: Path, stub: Stub) -> None:
    queue, now = running(tmp_path)
    stub.says("7 RUNNING 2 jobspec")
    job = queue.jobs()[0].id
    for _ in range(6):  # a partitioned node: Slurm has restarted the job, its worker lives on
        queue.reap()
        assert reaping.reap(queue, Slurm()) == []
        now[0] += 15.0
        queue.heartbeat(W, job=job)
    for _ in range(3):
        assert reaping.reap(queue, Slurm(), silent_only=True) == []
        queue.reap()
        now[0] += 15.0
    queue.reap()
    assert reaping.reap(queue, Slurm(), silent_only=True) == [job]


def test_a_healthy_queue_does_not_ask_slurm(tmp_path: Path, stub: Stub) -> None:
    queue, _ = running(tmp_path)
    queue.reap()
    reaping.reap(queue, Slurm(), silent_only=True)
    assert stub.count() == 0


def test_a_new_process_can_reap_with_one_call(tmp_path: Path, stub: Stub) -> None:
    """As from cron: it waits for some heartbeats where a later run makes a death likely."""
    queue, _ = running(tmp_path, beat_s=0.1)
    stub.says("7 PENDING 2 jobspec")
    fresh = Queue(queue.paths.root)
    assert len(reaping.watch(fresh, Slurm())) == 1
    assert reaping.watch(fresh, Slurm()) == []


def test_scale_submits_only_missing_elements(tmp_path: Path, stub: Stub) -> None:
    queue, _ = running(tmp_path, beat_s=0.1)
    for number in range(4):
        queue.enqueue(base_spec(notes=f"{number}"))
    settings = site.Site(root=str(queue.paths.root), sif="/s")
    stub.says("9 RUNNING 0 jobspec", "10 PENDING 0 jobspec", "11 COMPLETING 0 jobspec")
    seen = autoscale.need(queue, settings, Slurm(), 4, "ada")
    assert (seen.work, seen.have, seen.missing) == (5, 2, 2)
    assert autoscale.need(queue, settings, Slurm(), 9, "ada").missing == 3
    queue.hold("quota", by="ada")
    assert autoscale.need(queue, settings, Slurm(), 9, "ada").missing == 0


def test_only_one_process_holds_the_submit_lock(tmp_path: Path) -> None:
    with autoscale.lock(tmp_path) as mine:
        assert mine
        with autoscale.lock(tmp_path) as theirs:
            assert not theirs
    with autoscale.lock(tmp_path) as again:
        assert again
        (held,) = (tmp_path / "slurm").iterdir()
        held.rename(held.with_name("turn.20200101T000000.gone-1"))  # its holder died long ago
        with autoscale.lock(tmp_path) as taken:
            assert taken
