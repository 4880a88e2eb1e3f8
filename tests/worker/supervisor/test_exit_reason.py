from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.attempt import PhaseError, Progress
from jobspec.records.base import Reason
from jobspec.records.phases import EVAL
from jobspec.storage.layout import AttemptPaths
from tests.support.queues import attempt_of
from tests.support.specs import score_spec, train_spec
from worker.launch.plan import BatchPlan
from worker.phase import Phase, classify, guard
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


@pytest.mark.parametrize("code", [exit_codes.UNEXPLAINED, 134, 139, exit_codes.KILLED])
@pytest.mark.parametrize("kind", [Reason.FAILED, Reason.FILESYSTEM, Reason.DISK])
def test_the_error_that_a_phase_reported_decides_however_its_processes_died(about, code, kind):
    """A library may abort a process at its end, or while another one reports what is wrong."""
    leave(about(), kind=kind, message="row 17: no turn", hint="mend it", step=3)
    outcome = classify_exit("train", code, about())
    assert (outcome.reason, outcome.unexplained) == (kind, False)
    assert (outcome.message, outcome.hint, outcome.step) == ("row 17: no turn", "mend it", 3)
    assert outcome.again == (kind is not Reason.FAILED)


@pytest.mark.parametrize("code", [exit_codes.OUT_OF_MEMORY, exit_codes.KILLED])
def test_memory_is_tried_again_while_the_micro_batch_can_be_halved(about, code):
    again = classify_exit("train", code, about(micro=4))
    assert (again.reason, again.again, again.exit_code) == (Reason.OOM, True, code)
    assert "2 rows per micro-batch" in again.message
    final = classify_exit("train", code, about(micro=1))
    assert (final.reason, final.again) == (Reason.OOM, False)
    assert "train.zero_stage=3" in (final.hint or "")
    for phase in ("prepare", "eval"):
        assert classify_exit(phase, code, about(micro=4)).again == (code == exit_codes.KILLED)


@pytest.mark.parametrize(
    "code", [exit_codes.KILLED, exit_codes.UNEXPLAINED, exit_codes.NODE_LOST, 134]
)
@pytest.mark.parametrize("phase", ["prepare", "train", "eval"])
def test_a_process_that_the_kernel_killed_for_memory_ran_out_of_it(about, code, phase):
    """Whichever of the phase's processes was killed, and whatever the others say of it."""
    leave(about(), kind=None, message="Connection closed by peer", lost_peer=True)
    facts = {"killed_for_memory": "the worker's processes used 63.9 of 64.0 GiB"}
    outcome = classify_exit(phase, code, replace(about(), **facts))
    assert outcome.reason is Reason.OOM
    assert "used 63.9 of 64.0 GiB" in outcome.message
    assert outcome.again == (phase != "train")  # one row per micro-batch is the least
    if phase == "train":
        assert "--mem" in (outcome.hint or "") and "max_length" in (outcome.hint or "")
        on_gpu = classify_exit(phase, code, replace(about(), **facts, on_gpu=True))
        assert "--mem" in (on_gpu.hint or "") and "max_length" not in (on_gpu.hint or "")


def test_another_end_is_not_blamed_on_memory(about):
    facts = replace(about(stopping=True), killed_for_memory="all")
    assert classify_exit("train", exit_codes.STOPPED, facts).reason is Reason.PREEMPTED


def test_a_full_disk_is_known_by_the_code_alone(about):
    outcome = classify_exit("train", exit_codes.DISK_FULL, about())
    assert (outcome.reason, outcome.again, outcome.exit_code) == (
        Reason.DISK,
        True,
        exit_codes.DISK_FULL,
    )


@pytest.mark.parametrize(
    ("warned", "left_s", "reason"),
    [
        (True, 1e9, Reason.PREEMPTED),  # a user's `scancel --signal=USR2`
        (True, 100.0, Reason.WALLTIME),
        (False, 1e9, Reason.PREEMPTED),
        (False, 100.0, Reason.PREEMPTED),  # scancel in the last minutes
        (False, 10.0, Reason.PREEMPTED),
        (False, 0.0, Reason.WALLTIME),
        (False, -20.0, Reason.WALLTIME),  # the scheduler looks for jobs past their end now and then
    ],
)
def test_a_stop_is_the_walltimes_if_the_end_of_the_time_caused_it(about, warned, left_s, reason):
    circumstances = replace(about(stopping=True, left_s=left_s), warned=warned)
    outcome = classify_exit("train", exit_codes.STOPPED, circumstances)
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


def test_an_exit_without_a_report_is_unexplained_and_may_be_the_hosts_fault(about):
    about().paths.log("train").write_text("Loading\nSegmentation fault\n")
    outcome = classify_exit("train", 139, about())
    assert (outcome.reason, outcome.unexplained, outcome.again) == (Reason.FAILED, True, True)
    assert outcome.message == "train exited with SIGSEGV: Segmentation fault"


def test_an_error_of_a_gpu_is_unexplained_also_after_the_first_step(about):
    progress = Progress(phase="train", done=7, total=9, unit="steps")
    about().paths.progress.write_bytes(records.encode(progress))
    error = RuntimeError("CUDA error: uncorrectable ECC error encountered")
    leave(about(), kind=classify(error), message=str(error))
    outcome = classify_exit("train", exit_codes.UNEXPLAINED, about())
    assert (outcome.reason, outcome.unexplained, outcome.again) == (Reason.FAILED, True, True)
    assert outcome.message.startswith("train exited with code 1: CUDA error: uncorrectable ECC")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ESTALE, "Stale file handle", "/scratch/x"), Reason.FILESYSTEM),
        (OSError(errno.EIO, "Input/output error"), Reason.FILESYSTEM),
        (OSError(errno.ETIMEDOUT, "Connection timed out", "/scratch/x"), Reason.FILESYSTEM),
        (RuntimeError("write failed: Stale file handle"), Reason.FILESYSTEM),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Reason.DISK),
        (OSError(errno.EROFS, "Read-only file system"), Reason.DISK),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), None),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), None),
    ],
)
def test_an_error_of_a_filesystem_has_a_reason_of_its_own(
    error: BaseException, reason: Reason | None
) -> None:
    assert classify(error) is reason


def test_a_phase_that_a_filesystem_ended_is_retried(tmp_path: Path) -> None:
    paths = attempt_of(tmp_path, score_spec())

    def fails(phase: Phase) -> int:
        raise OSError(errno.ESTALE, "Stale file handle", "/scratch/x")

    code = guard(Phase(EVAL, paths.dir), fails)
    assert code == exit_codes.FILESYSTEM
    about = Circumstances(
        spec=score_spec(), plan=None, paths=paths, stopping=False, time_left_s=1e9, stall_s=60.0
    )
    outcome = classify_exit("eval", code, about)
    assert (outcome.reason, outcome.again) == (Reason.FILESYSTEM, True)
    assert "Stale file handle" in outcome.message
