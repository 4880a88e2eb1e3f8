"""Two real workers and one evaluation: the idle one helps, and may be killed while it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobspec.queue.queue import Queue
from jobspec.records import evaluation
from jobspec.records.base import State
from jobspec.spec.schema import EvalSpec, JobSpec
from tests.support.evaluations import aime_file, questions
from tests.support.models import hurry, patient_model
from tests.support.queues import queue_at
from tests.support.specs import job_spec, with_model
from tests.support.waiting import DEADLINE_S, until
from tests.support.workers import drain, worker

CHUNKS = 20


@pytest.fixture(scope="module")
def spec(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    """Forty questions with 32 samples each; a chunk takes four seconds until `hurry`."""
    directory = tmp_path_factory.mktemp("shared")
    settings = EvalSpec(
        benchmarks=("aime_test",),
        benchmark_dir=str(aime_file(directory / "bench", questions(2 * CHUNKS))),
        avg_k=32,
        max_gen_toks=16,
    )
    return with_model(
        job_spec(name="shared", eval=settings), patient_model(tiny, directory, pace_s=0.25)
    )


def results(queue: Queue, job: str) -> tuple[dict[str, bytes], Any]:
    """The samples and scores of a job, and its metrics."""
    found = queue.job(job)
    assert found.state is State.SUCCEEDED
    attempt = found.paths.attempt(found.attempt)
    files = {path.name: path.read_bytes() for path in (attempt.eval / "aime_test").glob("*.jsonl")}
    assert len(files) == CHUNKS + 2
    return files, evaluation.read_scores(attempt.eval / "aime_test")


@pytest.fixture(scope="module")
def alone(spec: JobSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Any]:
    """What a single worker makes of it."""
    hurry(Path(spec.model.name))
    queue = queue_at(tmp_path_factory.mktemp("alone"))
    job = queue.enqueue(spec)
    drain(queue, "--devices", "1")
    return results(queue, job.id)


@pytest.mark.parametrize("killed", [False, True], ids=["helps to the end", "is killed"])
def test_the_result_is_that_of_one_worker(
    spec: JobSpec, tmp_path: Path, alone: tuple[dict[str, bytes], Any], killed: bool
) -> None:
    model = Path(spec.model.name)
    (model / "hurry").unlink(missing_ok=True)
    queue = queue_at(tmp_path, lease_s=5.0)
    job = queue.enqueue(spec)
    share = job.paths.help_of(1)
    with worker(queue, "--devices", "1", "--max-jobs", "1") as owner:
        until(lambda: queue.job(job.id).state is State.RUNNING, "the claim")
        with worker(queue, "--devices", "1") as helper:
            until(lambda: list(share.done.glob("*.jsonl")), "a chunk of the helper")
            (name,) = [path.name for path in share.taken.iterdir() if path.name != "owner"]
            until(lambda: list(share.held_by(name).iterdir()), "the helper's next chunk")
            shown = [seen.record.helps for seen in queue.workers() if seen.worker == name]
            assert shown == [job.id]
            if killed:
                helper.kill()
                helper.wait()
                assert list(share.held_by(name).iterdir())
            hurry(model)
            assert owner.wait(DEADLINE_S) == 0
    assert "other workers generated" in job.paths.attempt(1).log("eval").read_text()
    assert not job.paths.help.exists()
    assert results(queue, job.id) == alone
