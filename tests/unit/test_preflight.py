from __future__ import annotations

import time
from pathlib import Path

from worker import preflight
from worker.preflight import Fitness


def test_a_healthy_node_is_fit_and_nothing_is_left_behind(tmp_path: Path):
    fitness = Fitness(tmp_path, Path("/tmp"))
    assert fitness.findings() == []
    assert fitness.unfit_s == 0
    assert list(tmp_path.iterdir()) == []


def test_gpus_that_slurm_promised_and_that_do_not_answer_are_missed():
    (finding,) = preflight.missing_gpus({"SLURM_GPUS_ON_NODE": "9999"})
    assert "9999 GPUs" in finding.message
    assert finding.of_node
    assert preflight.missing_gpus({}) == []


def test_a_clock_far_from_the_roots_is_seen(tmp_path: Path):
    assert preflight.skewed_clock(tmp_path) == []
    (finding,) = preflight.skewed_clock(tmp_path, clock=lambda: time.time() - 1000)
    assert "1000 s behind" in finding.message
    (finding,) = preflight.skewed_clock(tmp_path, clock=lambda: time.time() + 1000)
    assert "ahead of" in finding.message
    assert list(tmp_path.iterdir()) == []


def test_a_sites_own_check_speaks_for_itself(tmp_path: Path):
    program = tmp_path / "check"
    program.write_text("#!/bin/sh\necho fabric is down\nexit 1\n")
    program.chmod(0o755)
    (finding,) = preflight.site_check({"JOBSPEC_PREFLIGHT": str(program)})
    assert "fabric is down" in finding.message
    program.write_text("#!/bin/sh\nexit 0\n")
    assert preflight.site_check({"JOBSPEC_PREFLIGHT": str(program)}) == []
    (finding,) = preflight.site_check({"JOBSPEC_PREFLIGHT": str(tmp_path / "nothing")})
    assert "nothing" in finding.message


def test_a_tmpdir_too_long_for_sockets_is_named(tmp_path: Path):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    assert any(found.check == "tmpdir" for found in preflight.check(tmp_path, deep))


def test_whether_a_root_takes_a_write_is_tried(tmp_path: Path):
    assert preflight.can_write(tmp_path)
    assert not preflight.can_write(Path("/proc"))
    assert list(tmp_path.iterdir()) == []
