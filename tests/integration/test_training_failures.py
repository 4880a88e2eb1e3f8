"""Training that goes wrong is reported with its own error, by queue and worker together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import End
from jobspec.records.base import Reason, State
from jobspec.records.phases import TRAIN
from tests.support.commands import jobspec
from tests.support.models import coded_model
from tests.support.queues import queue_at
from tests.support.specs import tiny_spec, with_model
from tests.support.workers import drain, rows

pytestmark = pytest.mark.deepspeed

FAILS_ON_SECOND_RANK = '''
import torch.distributed as dist
from transformers import Olmo3ForCausalLM


class Lopsided(Olmo3ForCausalLM):
    """A model whose second rank fails, so that the first one loses its connection."""

    def __init__(self, config):
        super().__init__(config)
        self.model.register_forward_pre_hook(self.fail)

    def fail(self, module, args):
        if dist.get_rank() == 1:
            raise KeyError("a setting that only the second rank reads")
'''


NAN_WHEN_EVALUATED = '''
from transformers import Olmo3ForCausalLM


class Poisoned(Olmo3ForCausalLM):
    """A model that computes NaN in evaluations once its weights have changed."""

    untrained = None

    def __init__(self, config):
        super().__init__(config)
        self.model.norm.register_forward_hook(self.poison)

    def poison(self, module, args, output):
        weight = module.weight.detach().clone()
        if self.untrained is None:
            self.untrained = weight
        changed = bool((weight != self.untrained).any())
        return output * float("nan") if changed and not self.training else output
'''


WORSE_WITH_EACH_STEP = '''
from transformers import Olmo3ForCausalLM


class Drifting(Olmo3ForCausalLM):
    """A model whose guesses grow bolder with each training step, like those of a high rate."""

    steps = 0

    def __init__(self, config):
        super().__init__(config)
        self.model.norm.register_forward_hook(self.drift)

    def drift(self, module, args, output):
        self.steps += self.training
        return output * (1 + 5 * self.steps)
'''


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Queue:
    return queue_at(tmp_path_factory.mktemp("troubled"))


def copy_of(tiny: Path, directory: Path, file: str, **changes: object) -> Path:
    """The tiny model with changes in one of its JSON files."""
    shutil.copytree(tiny / "model", directory)
    path = directory / file
    settings = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps(settings | changes))
    return directory


def end_of(queue: Queue, job: str, attempt: int = 1) -> End:
    end = records.read(queue.paths.job(job).attempt(attempt).end, End)
    assert end is not None
    return end


def test_a_generation_config_without_do_sample_is_saved(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    """Vicuna, LLaVA and others have one; Transformers refuses to save it as it is."""
    model = copy_of(
        tiny, tmp_path / "m", "generation_config.json", temperature=0.9, top_p=0.6, do_sample=False
    )
    job = queue.enqueue(with_model(tiny_spec(tiny, name="sampling", num_train_epochs=1.0), model))
    drain(queue, "--devices", "1")
    assert queue.job(job.id).state is State.SUCCEEDED
    final = queue.paths.job(job.id).attempt(1).final_model
    saved = msgspec.json.decode((final / "generation_config.json").read_bytes())
    assert (saved["do_sample"], saved["temperature"], saved["top_p"]) == (True, 0.9, 0.6)


def test_a_model_that_cannot_be_saved_fails_before_its_first_step(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = copy_of(tiny, tmp_path / "m", "generation_config.json", output_scores=True)
    job = queue.enqueue(with_model(tiny_spec(tiny, name="unsaveable"), model))
    drain(queue, "--devices", "2")
    assert queue.job(job.id).state is State.FAILED
    end = end_of(queue, job.id)
    assert "could not be saved" in end.message
    assert not any("loss" in row for row in rows(queue.paths.job(job.id).attempt(1).dir))
    assert not queue.paths.job(job.id).attempt(2).dir.exists()
    assert "could not be saved" in jobspec("status", "--root", queue.paths.root).stdout


def test_the_error_of_the_rank_that_failed_is_reported_and_not_retried(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = coded_model(tiny, tmp_path / "lopsided", FAILS_ON_SECOND_RANK)
    job = queue.enqueue(with_model(tiny_spec(tiny, name="lopsided"), model))
    drain(queue, "--devices", "2")
    end = end_of(queue, job.id)
    assert end.reason is Reason.FAILED
    assert "KeyError" in end.message and "second rank reads" in end.message
    assert not queue.paths.job(job.id).attempt(2).dir.exists()
    assert "second rank reads" in jobspec("show", job.id, "--root", queue.paths.root).stdout


def test_a_held_out_loss_that_is_not_finite_ends_the_job(
    tiny: Path, tmp_path: Path, queue: Queue
) -> None:
    model = coded_model(tiny, tmp_path / "poisoned", NAN_WHEN_EVALUATED)
    spec = with_model(tiny_spec(tiny, name="poisoned", num_train_epochs=1.0), model)
    job = queue.enqueue(spec)
    drain(queue, "--devices", "1")
    end = end_of(queue, job.id)
    assert end.reason is Reason.FAILED
    assert "the held-out loss is nan at step" in end.message
    assert (end.step or 0) > 0, "the untrained model's was finite"
    assert "train.learning_rate" in (end.hint or "")
    assert not queue.paths.job(job.id).attempt(2).dir.exists()
    assert "held-out loss is nan" in jobspec("status", "--root", queue.paths.root).stdout


def test_one_step_changes_the_weights(tiny: Path, queue: Queue) -> None:
    one = tiny_spec(tiny, name="one-step", num_train_epochs=1.0, global_batch_size=4096)
    job = queue.enqueue(one)
    drain(queue, "--devices", "1")
    attempt = queue.paths.job(job.id).attempt(1)
    steps = [row for row in rows(attempt.dir) if "learning_rate" in row]
    assert [row["step"] for row in steps] == [1]
    report = TRAIN.read(attempt)
    assert report is not None and report.loss_first == report.loss
    trained = (attempt.final_model / "model.safetensors").read_bytes()
    assert trained != (tiny / "model" / "model.safetensors").read_bytes()


def test_a_run_that_got_worse_is_marked(tiny: Path, tmp_path: Path, queue: Queue) -> None:
    model = coded_model(tiny, tmp_path / "drifting", WORSE_WITH_EACH_STEP)
    job = queue.enqueue(with_model(tiny_spec(tiny, name="worse", num_train_epochs=1.0), model))
    drain(queue, "--devices", "1")
    report = TRAIN.read(queue.paths.job(job.id).attempt(1))
    assert report is not None and report.loss_rise
    root = queue.paths.root
    assert queue.job(job.id).state is State.SUCCEEDED
    for shown in ("status", "results"):
        assert "loss rose" in jobspec(shown, "--root", root).stdout
    assert "loss rose" in jobspec("show", job.id, "--root", root).stdout
