"""The models that an evaluation scores, and the engine that generates with one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobspec.errors import ModelError
from jobspec.models.directory import find_model
from jobspec.records import phases
from jobspec.spec.schema import EvalSpec, JobSpec
from jobspec.storage.layout import AttemptPaths, epoch_of
from worker.phase import Phase

if TYPE_CHECKING:
    from worker.inference.engine import EngineChoice


class ModelToScore(NamedTuple):
    """One model to score: the final one, or the weights of an epoch.

    With `is_adapter`, the directory holds only an adapter, to be merged into the spec's model.
    """

    name: str
    directory: Path
    epoch: float | None = None
    is_adapter: bool = False

    def samples(self, evaluations: Path) -> Path:
        """The directory of its benchmarks in an attempt's `eval/`."""
        return (
            evaluations
            if self.name == "final"
            else evaluations / AttemptPaths.CHECKPOINTS / self.name
        )


def find_models(phase: Phase) -> list[ModelToScore]:
    """The models to score, the final one last.

    Raises:
        ModelError: the trained model is not there, or the spec's model is not on this machine.
    """
    spec = phase.spec
    if spec.train is None:
        return [ModelToScore("final", find_model(spec.model, phase.root))]
    final = phase.paths.final_model
    if not (final / "config.json").is_file():
        hint = "the train phase makes it; `jobspec logs JOB --phase train` says why it did not"
        if phase.paths.done(phases.TRAIN.name).is_file():
            hint = "it was deleted or moved since the training ended; put it back, or train again"
        raise ModelError("there is no trained model to score", file=final, hint=hint)
    assert spec.eval is not None
    epochs = _epochs(phase.paths.checkpoints) if spec.eval.checkpoints == "all" else []
    return [*epochs, ModelToScore("final", final, phase.read_report(phases.TRAIN).epochs)]


def _epochs(checkpoints: Path) -> list[ModelToScore]:
    """The weights kept of earlier epochs, in order."""
    found: list[ModelToScore] = []
    for path in checkpoints.glob("*"):
        epoch, is_adapter = epoch_of(path), (path / "adapter_config.json").is_file()
        if epoch is not None and (is_adapter or (path / "config.json").is_file()):
            found.append(ModelToScore(path.name, path, float(epoch), is_adapter))
    return sorted(found, key=lambda model: model.epoch or 0)


def choose_engine(
    spec: JobSpec, settings: EvalSpec, model: ModelToScore
) -> tuple[EngineChoice, Any]:
    """The engine for the settings and the devices at hand, and the model's tokenizer.

    Raises:
        ModelError: the engine can't run here, or the model's directory is not complete.
        TemplateError: the chat template can't be read.
    """
    import torch

    from worker.evaluation.lm_eval_model import load_tokenizer
    from worker.inference.engine import choose

    choice = choose(
        settings.backend,
        spec.model,
        model.directory,
        gpus=torch.cuda.device_count(),
        kv_cache_dtype=settings.kv_cache_dtype,
        enable_prefix_caching=settings.enable_prefix_caching,
        deterministic=settings.deterministic,
    )
    tokenizer = load_tokenizer(
        str(model.directory),
        template=None if spec.train is not None else spec.model.chat_template,
        trust_remote_code=spec.model.trust_remote_code,
    )
    return choice, tokenizer
