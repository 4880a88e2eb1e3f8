"""The eval phase: score a model on the spec's benchmarks. `python -m worker.evaluate ATTEMPT_DIR`.

Reads the attempt's `final_model`, or the spec's model where nothing is trained. Leaves generations
and scores in `ATTEMPT_DIR/eval/<benchmark>/`, and last of all `eval.json`.
"""

from __future__ import annotations

import os
from pathlib import Path

from jobspec import benchmarks as files
from jobspec.errors import ModelError
from worker import benchmarks
from worker.models import find_model
from worker.phase import Phase, run

# Read by libraries as they are imported.
_ENVIRONMENT = {
    # OpenMP threads that spin while they wait make decoding ten times slower on a busy machine.
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
    # Progress bars are no use in a log.
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def main() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    run("eval", evaluate)


def evaluate(phase: Phase) -> None:
    """Score the attempt's model and publish `eval.json`."""
    spec = phase.spec
    evaluation = spec.eval
    assert evaluation is not None, "a job without `eval` has no eval phase"
    cache = phase.root.cache / "benchmarks"
    where = files.directories(evaluation.benchmark_dir, cache)
    own = [name for name in evaluation.benchmarks if benchmarks.is_own(name, where)]
    loaded = [benchmarks.load(name, where, cache) for name in own]
    model = find_scored(phase)

    import torch

    from worker.engines import choose
    from worker.lm import load_tokenizer
    from worker.passthrough import Foreign
    from worker.session import Session
    from worker.verify import Judge

    foreign = Foreign([n for n in evaluation.benchmarks if n not in own], evaluation, where)

    choice = choose(evaluation.backend, spec.model, model, gpus=torch.cuda.device_count())
    tokenizer = load_tokenizer(
        str(model),
        template=None if spec.train is not None else spec.model.chat_template,
        trust_remote_code=spec.model.trust_remote_code,
    )
    session = Session(
        phase.job.job,
        evaluation,
        choice,
        tokenizer,
        directory=phase.paths.eval,
        earlier=earlier(phase),
        report=lambda done, total: phase.progress(done, total, "samples"),
    )
    with Judge() as judge:
        results = session.run(loaded, judge)
    session.close()
    results += foreign.run(choice, tokenizer)
    summary = {
        "metrics": {
            f"bench/{result.benchmark}/{name}": value
            for result in results
            for name, value in result.metrics.items()
        },
        "intervals": {result.benchmark: result.intervals for result in results},
        "protocol": {result.benchmark: result.protocol for result in results},
        "seconds": round(phase.elapsed_s, 3),
    }
    phase.metric(step=0, **summary["metrics"])
    phase.finish(summary)


def find_scored(phase: Phase) -> Path:
    """The directory of the model this attempt scores.

    Raises:
        ModelError: the trained model is not there, or the spec's model is not on this machine.
    """
    if phase.spec.train is None:
        return find_model(phase.spec.model, phase.root)
    if not (phase.paths.final_model / "config.json").is_file():
        raise ModelError(
            "there is no trained model to score",
            file=phase.paths.final_model,
            hint="the train phase makes it; `jobspec logs JOB --phase train` says why it did not",
        )
    return phase.paths.final_model


def earlier(phase: Phase) -> list[Path]:
    """Directories where earlier attempts left generations, newest first."""
    numbers = range(phase.paths.number - 1, 0, -1)
    return [phase.job.attempt(number).eval for number in numbers]


if __name__ == "__main__":
    main()
