from __future__ import annotations

from pathlib import Path

import pytest

from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.attempt import PhaseError, Progress
from jobspec.records.base import Reason
from jobspec.storage.layout import AttemptPaths
from tests.support.specs import train_spec
from worker.launch.plan import BatchPlan
from worker.supervisor.exit_reason import Circumstances, classify_exit


@pytest.fixture
def about(tmp_path: Path):
    paths = AttemptPaths(tmp_path / "jobs" / "a-0123456789" / "attempts" / "1")
    paths.dir.mkdir(parents=True)
    spec = train_spec("m")

    def build(micro: int = 1, stopping: bool = False, left_s: float = 1e9) -> Circumstances:
        return Circumstances(spec, BatchPlan(2, micro, 1), paths, stopping, left_s, stall_s=60.0)

    return build


def leave(about: Circumstances, **error) -> None:
    about.paths.error.write_bytes(records.encode(PhaseError(phase="train", **error)))


def test_bad_input_is_final_and_says_itself_why(about):
    leave(about(), kind=Reason.FAILED, message="row 17: no turn", hint="mend it", step=3)
    outcome = classify_exit("train", exit_codes.REFUSED, about())
    assert (outcome.reason, outcome.again, outcome.unexplained) == (Reason.FAILED, False, False)
    assert (outcome.message, outcome.hint, outcome.step) == ("row 17: no turn", "mend it", 3)


@pytest.mark.parametrize("code", [exit_codes.OUT_OF_MEMORY, exit_codes.KILLED])
def test_memory_is_tried_again_while_the_micro_batch_can_be_halved(about, code):
    again = classify_exit("train", code, about(micro=4))
    assert (again.reason, again.again, again.exit_code) == (Reason.OOM, True, code)
    assert "2 rows per micro-batch" in again.message
    final = classify_exit("train", code, about(micro=1))
    assert (final.reason, final.again) == (Reason.OOM, False)
    assert "train.zero_stage=3" in (final.hint or "")
    assert not classify_exit("eval", code, about(micro=4)).again


def test_a_full_disk_is_known_by_the_code_alone(about):
    outcome = classify_exit("train", exit_codes.DISK_FULL, about())
    assert (outcome.reason, outcome.again, outcome.exit_code) == (
        Reason.DISK,
        True,
        exit_codes.DISK_FULL,
    )


@pytest.mark.parametrize(("left_s", "reason"), [(1e9, Reason.PREEMPTED), (100.0, Reason.WALLTIME)])
def test_a_stop_near_the_end_of_the_time_is_the_walltimes(about, left_s, reason):
    outcome = classify_exit("train", exit_codes.STOPPED, about(stopping=True, left_s=left_s))
    assert (outcome.reason, outcome.again) == (reason, True)
    assert "is saved" in outcome.message
    assert "is not saved" in classify_exit("train", None, about(stopping=True)).message


def test_a_hang_is_the_nodes(about):
    outcome = classify_exit("train", None, about())
    assert (outcome.reason, outcome.again) == (Reason.NODE, True)


def test_a_node_of_several_that_went_is_the_nodes(about):
    circumstances = about()
    circumstances.paths.log("train").write_text("step 7\ncoordinator: n2 disconnected\n")
    outcome = classify_exit("train", exit_codes.NODE_LOST, circumstances)
    assert (outcome.reason, outcome.again) == (Reason.NODE, True)
    assert "n2 disconnected" in outcome.message


def test_an_exit_without_a_report_is_unexplained_only_before_the_first_step(about):
    about().paths.log("train").write_text("Loading\nSegmentation fault\n")
    outcome = classify_exit("train", 139, about())
    assert (outcome.reason, outcome.unexplained, outcome.again) == (Reason.FAILED, True, True)
    assert outcome.message == "train exited 139: Segmentation fault"
    progress = Progress(phase="train", done=1, total=9, unit="steps")
    about().paths.progress.write_bytes(records.encode(progress))
    outcome = classify_exit("train", 139, about())
    assert (outcome.unexplained, outcome.again) == (False, False)
