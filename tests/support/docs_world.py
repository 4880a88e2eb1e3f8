"""A small world for the documentation's commands: specs, rows, models, a root with jobs.

What only a worker can do is stood in for: jobs end with the files that phases leave, written
through the real queue, so that every command that reads has something real to read.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from jobspec.queue.claim import Claim
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import ClaimRecord, PhaseTime, Result
from jobspec.records.base import Reason
from jobspec.records.reports import TrainReport
from jobspec.records.worker import WorkerRecord
from jobspec.spec import builder
from jobspec.spec.benchmark_settings import sampling
from jobspec.spec.schema import JobSpec, ModelSpec
from jobspec.storage import fs
from jobspec.storage.layout import AttemptPaths
from tests.support.commands import environment
from tests.support.models import model_dir
from tests.support.paths import REPOSITORY
from tests.support.prepared import write_rows
from tests.support.queues import ended, fail, report_progress
from tests.support.scores import write_evaluation
from tests.support.specs import base_spec
from worker.data import tokenizer
from worker.demo import tiny_model

MODELS = (
    "allenai/Olmo-3-7B-Think", "allenai/Olmo-3-7B-Instruct", "Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B",
)  # fmt: skip
BUSY = "gpu012-4711-0-0123456789abcdef"


@dataclass
class World:
    """Where a page's commands run: the directory of everything, and their environment."""

    place: Path
    env: dict[str, str]
    unfinished: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    @classmethod
    def at(cls, place: Path) -> World:
        env = environment(NO_COLOR="1") | {
            "HOME": f"{place}/home",
            "USER": "ada",
            "S": f"{place}/scratch/ada",
            "SCRATCH": f"{place}/scratch/ada",
            "TMP": f"{place}/scratch/demo",
            "JOBSPEC_BENCHMARK_DIR": f"{place}/benchmarks",
        }
        return cls(place, env | {"PATH": f"{place}/bin:{env['PATH']}"})

    @property
    def work(self) -> Path:
        """The directory that commands are called in: a checkout."""
        return self.place / "home/jobspec"

    @property
    def root(self) -> Path:
        return self.work / self.env.get("JOBSPEC_ROOT", "jobspec-root")

    def bring(self, part: str) -> None:
        """Put a part of the first root's cache into that of the root in use."""
        source, target = (root / "cache" / part for root in (self.work / "jobspec-root", self.root))
        if target != source:
            shutil.copytree(source, target, dirs_exist_ok=True)

    def here(self, text: str) -> str:
        """A command with the page's absolute paths put below this world.

        `$TMP` stands for a path in single quotes too: what the demo printed was put in its words.
        """
        text = text.replace("$TMP", self.env["TMP"])
        return re.sub(r"(?<![\w./$}-])/(scratch|fs)/", rf"{self.place}/\1/", text)

    def as_shown(self, text: str) -> str:
        """What was printed, with the names by which pages call this world's paths; in both ways
        where there are two."""
        plain = text.replace(str(self.place), "")
        for name in ("TMP", "S", "HOME"):
            text = text.replace(self.env[name], f"${name}")
        return f"{text}\n{plain}"


def make(place: Path) -> None:
    """Write the world that each page gets a copy of; a copy has other paths, and still holds."""
    work = place / "home/jobspec"
    shutil.copytree(REPOSITORY / "specs", work / "specs")
    (work / "slurm").mkdir()
    (work / "docs").symlink_to(REPOSITORY / "docs")
    for name in ("demo", "ada/tiny"):  # what worker.demo.tiny_model makes, without weights
        (place / "scratch" / name).mkdir(parents=True)
        tiny_model.make_rows(place / "scratch" / name)
        _model(place / "scratch" / name / "model")
    rows = place / "scratch/demo/train.jsonl"
    (work / "data").mkdir()
    for name in ("data/train.jsonl", "traces.jsonl"):
        shutil.copyfile(rows, work / name)
    capitals = (("France", "Paris"), ("Peru", "Lima"))
    asked = [{"question": f"What is the capital of {c}?", "answer": a} for c, a in capitals]
    write_rows(work / "capitals.jsonl", asked)
    _model(work / "out/checkpoint-900")
    (place / "benchmarks").mkdir()
    # Other questions than the demo's, whose rows contain those.
    asked = [
        {"id": f"{i}", "problem": f"How many letters come before number {i}?", "answer": f"{i}"}
        for i in range(26)
    ]
    for name in ("math500", "aime24", "aime25"):
        write_rows(place / f"benchmarks/{name}.jsonl", asked)
    for folder in ("fs/ess", "fs/project/me", "fs/scratch", "bin"):
        (place / folder).mkdir(parents=True)
    for name, arguments in (("jobspec", "-m jobspec.cli "), ("python", "")):
        program = place / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
        program.chmod(0o755)
    demo, queue = Queue.create(place / "scratch/demo/root"), Queue.create(work / "jobspec-root")
    _fill(queue)
    tokenizer.load_tokenizer_facts(ModelSpec(name=MODELS[0]), queue.paths)
    shutil.copytree(queue.paths.tokenizers, demo.paths.tokenizers)


def _model(path: Path) -> None:
    """All alike but in their names: what Transformers says of one holds for all."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
    model_dir(path, max_position_embeddings=65536, num_attention_heads=4, **sizes)


def _fill(queue: Queue) -> None:
    """Jobs in every state, a worker at work, and models in the cache."""
    for name in MODELS:
        _model(queue.paths.hub / f"models--{name.replace('/', '--')}/snapshots/main")
    for spec in (_spec("qwen3-8b-base"), _spec("qwen3-8b-lr1e-5", rate=1e-5)):
        queue.enqueue(spec)
    work_off(queue)
    fail(queue, base_spec(name="qwen3-8b-failed"), "row 17: no final turn", "look at row 17")
    report_progress(claim(queue, BUSY, _spec("qwen3-8b-lr5e-6", rate=5e-6)), 43, loss=0.4)
    for name in ("qwen3-8b-waits", "olmo-3-7b-waits"):
        queue.enqueue(_spec(name))


def _spec(name: str, rate: float | None = None) -> JobSpec:
    """A spec on Qwen3-8B, trained with `rate` or scored as it is."""
    rates = [] if rate is None else [rate]
    (spec,) = builder.build(
        builder.Request(
            models=MODELS[2:3],
            learning_rates=rates,
            name=name,
            train=rate is not None,
            data="/data/a.jsonl" if rates else None,
        )
    )
    if spec.data is None:
        return spec
    return msgspec.structs.replace(spec, data=msgspec.structs.replace(spec.data, sha256="0" * 64))


def claim(queue: Queue, worker: str, spec: JobSpec | None = None) -> Claim:
    """Claim the next job, or that of `spec`, for a worker that reports what it does."""
    if spec is not None:
        queue.enqueue(spec, priority=999)
    host = worker.split("-")[0]
    now = records.utc_now()
    facts = WorkerRecord(worker=worker, host=host, updated_at=now, slurm_job="1_0", busy_s=9.0)
    facts = msgspec.structs.replace(facts, started_at="2026-01-01T00:00:00.000000Z")
    queue.heartbeat(worker, facts, job=None)
    claimed = queue.claim(worker)
    assert claimed is not None
    at_work = msgspec.structs.replace(facts, job=claimed.job, phase="train")
    queue.heartbeat(worker, at_work, job=claimed.job)
    fs.publish(
        claimed.dir.claim, records.encode(ClaimRecord(worker=worker, host=host, claimed_at=now))
    )
    return claimed


def work_off(queue: Queue, host: str = "vm") -> None:
    """Let a worker do whatever waits: what its phases would have left is written."""
    worker = f"{host}-d4fb676cdc95f7ff"
    while queue.jobs(records.State.PENDING):
        finish(queue, claim(queue, worker))
    queue.retire(worker)


def finish(queue: Queue, claim: Claim) -> None:
    """Write what phases leave, and commit."""
    paths, spec = claim.dir, queue.job(claim.job).spec
    metrics: dict[str, float | None] = {}
    for benchmark in spec.eval.benchmarks if spec.eval is not None else ():
        metrics |= _score(paths, spec, benchmark)
    _write(paths.done("eval"), {"metrics": metrics, "timing": {"tokens": 8000, "generate_s": 4.0}})
    for phase in spec.phases():
        paths.log(phase).write_text(f"{phase} begins\n{phase} ends\n")
    if spec.train is not None:
        curve = [{"phase": "train", "step": n, "loss": 1 / n} for n in range(1, 9)]
        curve.append({"phase": "train", "step": 8, "eval_loss": 0.5})
        lines = (msgspec.json.encode(row | {"time": records.utc_now()}) for row in curve)
        paths.metrics.write_bytes(b"".join(line + b"\n" for line in lines))
        for kept in (paths.checkpoints / "epoch-1", paths.final_model):
            kept.mkdir(parents=True)
            (kept / "model.safetensors").write_bytes(bytes(5000))
    host = claim.worker.split("-")[0]
    phases = tuple(PhaseTime(phase=name, wall_s=61.0) for name in spec.phases())
    end = ended(Reason.SUCCEEDED)
    claim.end(
        msgspec.structs.replace(end, worker=claim.worker, host=host, wall_s=125.0, phases=phases)
    )
    result = Result(job=claim.job, attempt=claim.attempt, metrics=metrics, phases=phases)
    if spec.train is not None:
        trained = TrainReport(steps=8, loss_first=1.0, loss=0.125, eval_loss=0.5)
        result = msgspec.structs.replace(result, train=trained)
    claim.finish("succeeded", result)
    idle = WorkerRecord(worker=claim.worker, host=host, updated_at=records.utc_now(), busy_s=9.0)
    idle = msgspec.structs.replace(idle, started_at="2026-01-01T00:00:00.000000Z", slurm_job="1_0")
    queue.heartbeat(claim.worker, idle, job=None)


def _score(paths: AttemptPaths, spec: JobSpec, benchmark: str) -> dict[str, float | None]:
    """An evaluation of 26 questions: no answer is correct before training, all but one after it.

    Many answers are cut off before training and at the lower learning rates of docs/demo.md, where
    none is correct, and docs/cluster.md.
    """
    assert spec.eval is not None
    k = sampling(spec.eval, benchmark)["avg_k"]
    rate = None if spec.train is None else spec.train.learning_rate
    trained = rate not in (None, 5e-5)
    right = {letter: [trained and letter != "Z"] * k for letter in tiny_model.LETTERS}
    write_evaluation(paths.eval / benchmark, right)
    score = sum(map(sum, right.values())) / (26 * k)
    name = "math_verify" if benchmark == "minerva_math500" else f"avg_at_{k}"
    figures = {
        name: score,
        "stderr": 0.04,
        "sampling_stderr": 0.01 if k > 1 else None,
        "truncated_frac": 0.4 if rate in (None, 5e-5, 1e-3) else 0.0,
        "mean_response_tokens": 100.0,
    }
    return {f"bench/{benchmark}/{key}": value for key, value in figures.items()}


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_bytes(msgspec.json.encode(content))
