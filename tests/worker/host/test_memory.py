from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.host import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


@pytest.mark.parametrize(
    ("line", "limits", "expected"),
    [
        ("0::/slurm/job_7/step_0", {}, MACHINE),
        ("0::/slurm/job_7/step_0", {"slurm/job_7/memory.max": 2**29}, 0.5),
        ("0::/slurm/job_7/a", {"slurm/memory.max": 2**29, "slurm/job_7/memory.max": 2**28}, 0.25),
        ("0::/slurm/job_7/step_0", {"slurm/job_7/step_0/memory.max": "max"}, MACHINE),
        ("0::/slurm/job_7", {"slurm/job_8/memory.max": 2**20}, MACHINE),
        ("4:memory:/slurm/job_7", {"memory/slurm/job_7/memory.limit_in_bytes": 2**29}, 0.5),
        ("4:cpuset:/slurm/job_7", {"memory/slurm/job_7/memory.limit_in_bytes": 2**29}, MACHINE),
        ("0::/../..", {"memory.max": 2**29}, 0.5),
    ],
)  # fmt: skip
def test_the_lowest_limit_of_the_groups_counts(
    line: str, limits: dict[str, int | str], expected: float, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.write_text(line + "\n")
    for name, limit in limits.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    assert memory.usable_gib(tmp_path / "groups", own) == pytest.approx(expected)


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert memory.usable_gib(tmp_path, tmp_path / "none") == pytest.approx(MACHINE)


@pytest.mark.parametrize(
    ("line", "files", "kills", "used_gib"),
    [
        (
            "0::/job_7",
            {"job_7/memory.events": "low 0\noom 3\noom_kill 2", "job_7/memory.peak": 2**30},
            2,
            1.0,
        ),
        (
            "4:memory:/job_7",
            {
                "memory/job_7/memory.oom_control": "under_oom 0\noom_kill 5",
                "memory/job_7/memory.max_usage_in_bytes": 2**29,
            },
            5,
            0.5,
        ),
        ("0::/job_7", {"job_8/memory.events": "oom_kill 2"}, 0, None),
        ("4:memory:/job_7", {"memory/job_7/memory.oom_control": "under_oom 0"}, 0, None),
    ],
)
def test_what_the_kernel_counts_of_a_group(
    line: str, files: dict[str, int | str], kills: int, used_gib: float | None, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.write_text(line + "\n")
    for name, text in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert memory.oom_kills(tmp_path / "groups", own) == kills
    assert memory.used_gib(tmp_path / "groups", own) == used_gib


def test_only_kills_since_the_watch_began_count(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = [4]
    monkeypatch.setattr(memory, "oom_kills", lambda: kills[0])
    monkeypatch.setattr(memory, "used_gib", lambda: 3.5)
    monkeypatch.setattr(memory, "usable_gib", lambda: 4.0)
    watch = memory.KillWatch()
    assert watch.describe() is None
    kills[0] += 1
    assert watch.describe() == "the worker's processes used 3.5 of 4.0 GiB"
