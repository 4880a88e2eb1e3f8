"""Checks that the records of a bundle agree where they state the same, and that they fit its spec.

Many facts stand in several files: a job's worker writes them where each reader looks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import hexdigits
from typing import Any, cast

import msgspec

from jobspec.bundle.about import AboutBundle
from jobspec.bundle.findings import BundleFinding
from jobspec.bundle.redaction import PLACEHOLDER
from jobspec.records import base as records
from jobspec.records.attempt import End, Result
from jobspec.records.base import UNSET, State
from jobspec.records.evaluation import AskedQuestion, Generation, sample_seed
from jobspec.records.manifest import EngineSummary, Manifest, TrainingInputs
from jobspec.records.phases import EVAL, PREPARE, TRAIN
from jobspec.records.reports import EvalReport, ScoringProtocol
from jobspec.spec import identity
from jobspec.spec.benchmark_settings import sampling
from jobspec.spec.schema import EvalSpec, JobSpec
from jobspec.storage.layout import AttemptPaths

# Settings of DeepSpeed that a retry may change after an attempt ran out of memory.
_OF_THE_PLAN = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
# Settings of an evaluation that a protocol states under the same name.
_SAMPLED = ("max_gen_toks", "temperature", "top_p", "top_k", "min_p", "presence_penalty")
_ASKED = ("protocol", "think_end_token", "chat_template_kwargs")
# `rescore` of older versions changed these in the report alone.
_OF_THE_READER = {"answer_reader": UNSET, "math_verify_version": UNSET}


@dataclass(frozen=True)
class Fact:
    """One fact as two files state it."""

    what: str
    one: Any
    other: Any

    def faults(self) -> Iterator[str]:
        """Where the two differ: of structs and dictionaries, each field."""
        one, other = _fields(self.one), _fields(self.other)
        if one is None or other is None:
            if self.one != self.other:
                yield f"{self.what} is stated as {self.one!r} and as {self.other!r}"
            return
        for name in dict.fromkeys((*one, *other)):
            yield from Fact(f"`{name}` of {self.what}", one.get(name), other.get(name)).faults()


def _fields(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else None


def check_records(
    attempt: AttemptPaths, about: AboutBundle, spec: JobSpec
) -> Iterator[BundleFinding]:
    """Whether manifest, reports, result and spec say the same."""
    file = f"attempts/{attempt.number}/{attempt.manifest.name}"
    manifest = records.read(attempt.manifest, Manifest)
    if manifest is None:
        yield BundleFinding.unknown("records", "the attempt has no manifest: nothing ran")
        return
    facts = [
        *_of_the_job(attempt, about, spec),
        *_of_the_manifest(attempt, manifest, spec),
        *_of_the_training(attempt, manifest, spec),
        *_of_the_result(attempt),
    ]
    faults = [fault for fact in facts for fault in fact.faults()]
    yield BundleFinding.of("records", faults, f"{len(facts)} facts are stated alike", file)


def _of_the_job(attempt: AttemptPaths, about: AboutBundle, spec: JobSpec) -> Iterator[Fact]:
    name, dash, digest = about.job.rpartition("-")
    if not PLACEHOLDER.search(spec.name + about.job):
        is_digest = len(digest) == len(identity.digest(b"")) and not digest.strip(hexdigits)
        found = name if dash and is_digest else f"{about.job} without an id"
        yield Fact("the job's name", found, identity.slug(spec.name))
    result, end = records.read(attempt.result, Result), records.read(attempt.end, End)
    if result is not None:
        yield Fact("the job", about.job, result.job)
        yield Fact("the attempt", about.attempt, result.attempt)
    if end is not None:
        # Only success can be compared: other reasons for an end are not named as states are.
        outcomes = [
            "success" if each == State.SUCCEEDED else "another end"
            for each in (about.state, str(end.reason))
        ]
        yield Fact("the outcome", *outcomes)


def _of_the_manifest(attempt: AttemptPaths, manifest: Manifest, spec: JobSpec) -> Iterator[Fact]:
    yield Fact(
        "the seed of training", manifest.seeds.train, spec.train.seed if spec.train else None
    )
    yield Fact("the seed of evaluation", manifest.seeds.eval, spec.eval.seed if spec.eval else None)
    prepared, data = PREPARE.read(attempt), spec.data
    if prepared is None:
        return
    if manifest.inputs != TrainingInputs():
        again = msgspec.convert(prepared, TrainingInputs, from_attributes=True)
        yield Fact("the inputs", manifest.inputs, again)
    if data is not None and data.sha256 and not data.sources:
        yield Fact("the data's SHA-256 in the spec", data.sha256, prepared.data_sha256)


def _of_the_training(attempt: AttemptPaths, manifest: Manifest, spec: JobSpec) -> Iterator[Fact]:
    report, train = TRAIN.read(attempt), spec.train
    if report is None or train is None:
        return
    engine = report.engine
    yield Fact("the ZeRO stage", engine.zero_stage, train.zero_stage)
    if train.num_train_epochs.is_integer():
        yield Fact("the number of epochs", report.epochs, train.num_train_epochs)
    if "gradient_clipping" in engine.deepspeed_config:
        clipped = engine.deepspeed_config["gradient_clipping"]
        yield Fact("the gradient clipping", clipped, train.max_grad_norm)
    if manifest.engine != EngineSummary():
        again = msgspec.convert(engine, EngineSummary, from_attributes=True)
        yield Fact("the engine", manifest.engine, again)
    # A training that an earlier attempt finished may have run on other devices.
    if _trained_here(attempt) and manifest.deepspeed is not None and manifest.plan is not None:
        yield Fact("the number of ranks", manifest.plan.world_size, engine.world_size)
        configured = _without_plan(manifest.deepspeed), _without_plan(engine.deepspeed_config)
        yield Fact("DeepSpeed's configuration", *configured)


def _trained_here(attempt: AttemptPaths) -> bool:
    end = records.read(attempt.end, End)
    phases = end.phases if end is not None else ()
    return any(each.phase == TRAIN.name and not each.kept for each in phases)


def _without_plan(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _OF_THE_PLAN}


def _of_the_result(attempt: AttemptPaths) -> Iterator[Fact]:
    result, scored = records.read(attempt.result, Result), EVAL.read(attempt)
    if result is None:
        return
    if scored is not None:
        yield Fact("the metrics in the result", result.metrics, scored.metrics)
        yield Fact("the protocol in the result", *map(_without_reader, (result, scored)))
    for what, stated, phase in (
        ("the training report in the result", result.train, TRAIN),
        ("the data's report in the result", result.prepare, PREPARE),
    ):
        if (report := phase.read(attempt)) is not None and report != type(report)():
            yield Fact(what, stated, report)


def _without_reader(stated: Result | EvalReport) -> dict[str, ScoringProtocol]:
    changed = _OF_THE_READER
    return {k: msgspec.structs.replace(v, **changed) for k, v in stated.protocol.items()}


def protocol_faults(
    name: str,
    benchmark: str,
    stated: ScoringProtocol,
    report: EvalReport,
    settings: EvalSpec | None,
) -> Iterator[str]:
    """Where the protocol of a benchmark's samples is not that of the report or of the spec.

    Args:
        name: the benchmark's, in front of it the epoch whose weights were scored.
        benchmark: one of jobspec's own.
        stated: the protocol in its `plan.json`.
        settings: the spec's.
    """
    if name in report.protocol:
        yield from Fact(f"the protocol of `{name}`", stated, report.protocol[name]).faults()
    if settings is None:
        return
    wanted = sampling(settings, benchmark)
    asked, is_exact = wanted["avg_k"], wanted["stop_rule"] is None
    if stated.k is not UNSET and (stated.k > asked or (is_exact and stated.k < asked)):
        yield f"`{name}` has {stated.k} samples a question; the spec asks for {asked}"
    facts = {field: wanted[field] for field in _SAMPLED}
    facts |= {field: getattr(settings, field) for field in _ASKED}
    if settings.backend != "auto":
        facts["engine"] = settings.backend
    for field, value in facts.items():
        found = getattr(stated, field)
        if found is not UNSET and found != value:
            yield f"`{field}` of `{name}` is {found!r}; the spec has {value!r}"


def question_faults(
    stated: ScoringProtocol, questions: Sequence[AskedQuestion], *, replaced: bool
) -> Iterator[str]:
    """Where the questions are not those that the protocol states.

    Args:
        replaced: placeholders replaced texts in the questions, so that their hash is another.
    """
    if isinstance(stated.questions, int) and stated.questions != len(questions):
        yield f"{len(questions):,} questions; the protocol states {stated.questions:,}"
    if stated.prompt_sha256 is UNSET or replaced:
        return
    texts = msgspec.json.encode([[question.id, question.prompt] for question in questions])
    found = hashlib.sha256(texts).hexdigest()
    if found != stated.prompt_sha256:
        yield f"the prompts have the SHA-256 {found}; the protocol states {stated.prompt_sha256}"


def seed_faults(
    job: str, benchmark: str, drawn: Mapping[str, Sequence[Generation]]
) -> Iterator[str]:
    """Samples without the seed that this job gives them: those of another job have others."""
    for name, rows in drawn.items():
        if PLACEHOLDER.search(f"{job} {name}"):
            continue  # the seed was made from the text that the placeholder replaced
        for row in rows:
            if row.seed != sample_seed(job, benchmark, name, row.sample):
                yield f"sample {row.sample} of question `{name}` has another job's seed"
