"""What Slurm's commands are given: programs in their place print their environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobspec.cluster import slurm as slurm_module
from jobspec.cluster import slurm_limits
from jobspec.cluster.scheduler import SchedulerRun, Submission
from jobspec.cluster.slurm import Slurm, environment
from jobspec.errors import JobspecError

CHANGING = {
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_FORMAT2": "JobID",
    "SQUEUE_STATES": "RUNNING",
    "SQUEUE_USERS": "nobody",
    "SQUEUE_PARTITION": "debug",
    "SBATCH_TIMELIMIT": "5",
    "SBATCH_PARTITION": "debug",
    "SBATCH_ARRAY_INX": "0-99",
    "SALLOC_TIMELIMIT": "5",
    "SINFO_FORMAT": "%n",
    "SLURM_CLUSTERS": "all",
    "SLURM_TIME_FORMAT": "relative",
    "SLURM_JOB_ID": "17",
    "SLURM_MEM_PER_NODE": "4096",
    "SRUN_CPUS_PER_TASK": "2",
}


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which each command of Slurm's leaves its environment."""
    for name in ("squeue", "sbatch", "scontrol"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nenv >>{tmp_path}/seen\necho 'ClusterName = c'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/other.conf")
    return tmp_path / "seen"


@pytest.mark.parametrize("name", CHANGING)
def test_no_variable_of_a_login_shell_reaches_slurms_commands(
    seen: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, CHANGING[name])
    slurm = Slurm()
    assert slurm.elements("jobspec-1", "ada") == []
    slurm.ended([SchedulerRun("c", "17", 0)])
    slurm.submit(Submission("", ("sbatch", "--parsable")), seen.parent / "script")
    given = seen.read_text().splitlines()
    assert not [line for line in given if line.startswith(f"{name}=")]
    assert given.count("SLURM_CONF=/etc/slurm/other.conf") == 4  # squeue twice, scontrol, sbatch


def test_what_is_not_slurms_stays() -> None:
    kept = {"PATH": "/bin", "SLURM_CONF": "/c", "SLURM_JWT": "x", "OMP_NUM_THREADS": "4"}
    assert environment(kept | CHANGING) == kept


ARRAY = "Batch job submission failed: Invalid job array specification"
QOS = (
    "QOSMaxSubmitJobPerUserLimit\n"
    "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)
FULL = "Slurm temporarily unable to accept job, sleeping and retrying"
SETTINGS = "MaxArraySize            = 1001\nMaxJobCount             = 10000"
REFUSALS = {
    "array": (ARRAY, {}, "0-1999", "", "MaxArraySize is 1001", "--array 0-1000"),
    "high index": (ARRAY, {}, "5000-5003", "", "MaxArraySize is 1001", "--array 0-3"),
    "tasks": (
        ARRAY,
        {"scontrol": f"{SETTINGS}\nSchedulerParameters = bf_window=1,max_array_tasks=50"},
        "0-99",
        "",
        "max_array_tasks",
        "--array 0-49",
    ),
    "qos": (QOS, {}, "0-9", "#SBATCH --qos=gpu-long", "QOS `gpu-long` allows you 6", "--array 0-2"),
    "default qos": (QOS, {}, "0-99", "", "QOS `normal` allows you 20", "--array 0-16"),
    "partition's qos": (QOS, {}, "0-9", "#SBATCH --partition=gpu", "QOS `part` allows", "0-1"),
    "no room": (QOS, {}, "0", "#SBATCH --qos=small", "there are 3", "when some have ended"),
    "account": (
        QOS,
        {"assoc": "a|normal|4\nb|normal|30"},
        "0-9",
        "#SBATCH --account=a",
        "account `a` allows you 4",
        "--array 0-0",
    ),
    "no accounting": (QOS, {"qos": None, "assoc": None}, "0-9", "", "sacctmgr", "--array"),
    "cluster": (
        FULL,
        {},
        "0-9",
        "",
        "at most 10000 jobs (MaxJobCount) and there are 2",
        "--array 0-9",
    ),
    "other": ("Invalid account", {}, "0-9", "", "--dry-run", "--dry-run"),
}


def answer(seen: Path, name: str, *cases: tuple[str, str | None]) -> None:
    """Let a program print a text by its arguments, or fail."""
    arms = [
        f'*"{words}"*) exit 1;;' if text is None else f"*'{words}'*) cat <<'END'\n{text}\nEND\n;;"
        for words, text in cases
    ]
    lines = "\n".join(arms)
    file = seen.parent / name
    file.write_text(f'#!/bin/sh\ncase "$*" in\n{lines}\nesac\n')
    file.chmod(0o755)


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_explained_with_its_limit_and_a_command_that_fits(
    seen: Path, case: str
) -> None:
    message, told, array, head, limit, command = REFUSALS[case]
    qos = told.get("qos", "normal|20\ngpu-long|6\npart|5\nsmall|3")
    answer(
        seen,
        "scontrol",
        ("config", told.get("scontrol", SETTINGS)),
        ("partition gpu", "PartitionName=gpu QoS=part State=UP"),
    )
    answer(seen, "sacctmgr", ("qos format", qos), ("assoc", told.get("assoc", "a|normal|")))
    answer(seen, "squeue", ("--user", "1_0\n1_1\n7"), ("--states=all", "1_0\n9"))
    (seen.parent / "sbatch").write_text(f'#!/bin/sh\necho "{message}" >&2\nexit 1\n')
    with pytest.raises(JobspecError, match="sbatch refused") as refused:
        Slurm().submit(
            Submission(f"#!/bin/bash\n{head}\n", ("sbatch", f"--array={array}")),
            seen.parent / "script",
        )
    hint = refused.value.hint or ""
    assert limit in hint and command in hint


@pytest.mark.parametrize(("said", "hint"), [("", "squeue --me"), (FULL, "MaxJobCount")])
def test_an_sbatch_that_hangs_is_given_up(
    seen: Path, monkeypatch: pytest.MonkeyPatch, said: str, hint: str
) -> None:
    """It hangs without a controller, and retries for ever while the cluster is full."""
    answer(seen, "scontrol", ("config", SETTINGS))
    (seen.parent / "sbatch").write_text(f"#!/bin/sh\necho '{said}' >&2\nexec sleep 60\n")
    monkeypatch.setattr(slurm_module, "_SUBMIT_TIMEOUT_S", 0.5)
    with pytest.raises(JobspecError, match="did not answer") as refused:
        Slurm().submit(Submission("", ("sbatch",)), seen.parent / "script")
    assert hint in (refused.value.hint or "") and said in str(refused.value)


@pytest.mark.parametrize(
    ("array", "count"), [("0", 1), ("0-3", 4), ("0,2", 2), ("0-15%4", 16), ("5000-5003,7", 5)]
)
def test_the_elements_of_an_array(array: str, count: int) -> None:
    assert slurm_limits.count_elements(array) == count
