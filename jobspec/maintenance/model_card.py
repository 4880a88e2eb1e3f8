"""The model card of a trained model: README.md with front matter for the Hugging Face Hub.

A card is published, so it names no user, host, worker or directory: of a path only the last part
is shown, and what looks like a secret is replaced. It has no date, so that writing it again gives
the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, cast

import msgspec

from jobspec.errors import JobspecError
from jobspec.models import directory as models
from jobspec.monitoring import cost, status
from jobspec.queue.job import Job
from jobspec.records import base as records
from jobspec.records.attempt import Result
from jobspec.records.base import UNSET
from jobspec.records.manifest import Manifest
from jobspec.records.reports import PrepareReport, ScoringProtocol, TrainReport
from jobspec.results import settings, table
from jobspec.results.formats import markdown_text
from jobspec.results.table import Score
from jobspec.spec import identity, secrets
from jobspec.spec.schema import JobSpec
from jobspec.spec.sources import list_sources
from jobspec.storage import fs
from jobspec.storage.layout import MODEL_CARD, RootPaths

# Text in LICENSE files, and the Hub's name of the license.
_LICENSES = (
    (r"Apache License\s+Version 2\.0", "apache-2.0"),
    (r"MIT License|Permission is hereby granted, free of charge", "mit"),
)
_FRONT_MATTER = re.compile(r"---\n(.*?)\n---", re.DOTALL)
_LICENSE_FIELD = re.compile(
    r"^(license(?:_name|_link)?): *[\"']?([^\"'\n]+?)[\"']? *$", re.MULTILINE
)
# A snapshot in the hub's cache: its directory names the repository.
_SNAPSHOT = re.compile(r"(?:^|/)(models|datasets)--([\w.-]+?)--([\w.-]+)/")
_HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_PATH = re.compile(r"(?<![\w.:/~<])(?:~[\w.-]*)?(?:/[^\s/\"'`,;:|()\[\]{}]+)+/?")
# The settings of training that are always shown, whether they are defaults or not.
_SETTINGS = (
    *("learning_rate", "num_train_epochs", "global_batch_size", "max_length", "optim"),
    *("lr_scheduler_type", "warmup_ratio", "weight_decay", "seed"),
)
_PROTOCOL = (
    "protocol",
    "shots",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_gen_toks",
    "engine",
)
_TRAINED = "train."
# Groups of a spec that say nothing about the model: where it was tracked, what a person noted.
_PRIVATE = ("notes", "tracking")


def render(job: Job) -> str:
    """The card of a job's final model.

    Raises:
        JobspecError: the job has no final model.
        SpecError: its spec is damaged.
    """
    refuse_without_model(job)
    result = status.result(job) or Result(job=job.id, attempt=job.attempt)
    spec = job.spec
    scores = table.scores(result.metrics, result.protocol)
    manifest = records.read(job.paths.attempt(result.attempt).manifest, Manifest) or Manifest()
    sections = [
        _front_matter(job, spec, scores),
        f"# {markdown_text(spec.name)}",
        _summary(spec, result),
        _scores(scores, result.protocol),
        _training(spec, result.train or None),
        _data(spec, result.prepare or None),
        _reproduction(spec),
        _versions(manifest, cost.spelled(cost.cost(job))),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def refuse_without_model(job: Job) -> None:
    """Raise JobspecError if the job has no final model, saying why."""
    if job.paths.final_model.is_dir():
        return
    why = f"it is {job.state}"
    if job.spec.train is None:
        why = "it only scores a model and trains none"
    raise JobspecError(
        f"`{job.id}` has no final model: {why}",
        file=job.paths.dir,
        hint="`jobspec status --state succeeded` lists the jobs that have ended well",
    )


def public(value: Any) -> Any:
    """A value without directories and secrets: of every absolute path only the last part."""
    return _without_paths(secrets.redact(value))


def _without_paths(value: Any) -> Any:
    if isinstance(value, str):
        if value.startswith(("/", "~/")):
            return PurePath(value).name
        return _PATH.sub(lambda found: PurePath(found[0]).name, value)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {_without_paths(key): _without_paths(inner) for key, inner in items}
    if isinstance(value, list | tuple):
        return [_without_paths(inner) for inner in cast("list[Any]", value)]
    return value


# --- the front matter


def _front_matter(job: Job, spec: JobSpec, scores: Mapping[str, Score]) -> str:
    found: dict[str, Any] = {}
    if (base := _hub_name(spec.model.name, "models")) is not None:
        found["base_model"] = base
    names = [_hub_name(each.path, "datasets") for each in _sources(spec)]
    if datasets := sorted({name for name in names if name is not None}):
        found["datasets"] = datasets
    found |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    found |= _license(job.root, spec)
    found["tags"] = ["jobspec", "sft", *(["lora"] if spec.train and spec.train.lora else [])]
    if scores:
        results = [_model_index(name, score) for name, score in scores.items()]
        found["model-index"] = [{"name": spec.name, "results": results}]
    return "\n".join(["---", *_yaml(found), "---"])


def _model_index(name: str, score: Score) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": score.metric, "name": _metric(score), "value": score.value}
    ends = score.interval
    if ends is not None:
        metric["args"] = {"interval_95": [round(end, 4) for end in ends]}
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": name, "type": name},
        "metrics": [metric],
    }


def _yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Lines of YAML. Scalars are written as JSON, which YAML contains."""
    if isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            if isinstance(inner, dict | list):
                yield f"{indent}{key}:"
                yield from _yaml(inner, f"{indent}  ")
            else:
                yield f"{indent}{key}: {json.dumps(inner, ensure_ascii=False)}"
    else:
        for inner in cast("list[Any]", value):
            if isinstance(inner, dict):
                first, *rest = _yaml(inner, f"{indent}  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{indent}- {json.dumps(inner, ensure_ascii=False)}"


def _hub_name(name: str, kind: str) -> str | None:
    """The name on the Hub of a model or a data file, if it has one."""
    found = _SNAPSHOT.search(name)
    if found is not None and found[1] == kind:
        return f"{found[2]}/{found[3]}"
    is_name = kind == "models" and _HUB_NAME.fullmatch(name) and not models.is_path(name)
    return name if is_name else None


def _license(root: RootPaths, spec: JobSpec) -> dict[str, str]:
    """The base model's license, from its own card or its LICENSE file; empty if unknown."""
    try:
        directory = models.locate(spec.model, root)
    except RuntimeError:  # the home directory of a user who is not known here
        directory = None
    if directory is None:
        return {}
    front = _FRONT_MATTER.match(_text(directory, MODEL_CARD))
    if front is not None and (fields := dict(_LICENSE_FIELD.findall(front[1]))).get("license"):
        return public(fields)
    text = next(filter(None, (_text(directory, name) for name in ("LICENSE", "LICENSE.txt"))), "")
    known = (name for pattern, name in _LICENSES if re.search(pattern, text))
    return {"license": name} if (name := next(known, None)) is not None else {}


def _text(directory: Path, name: str) -> str:
    try:
        return fs.read(directory / name).decode(errors="replace")
    except OSError:
        return ""


# --- the text


def _summary(spec: JobSpec, result: Result) -> str:
    base = _model_name(spec)
    how = "LoRA, merged into the weights" if spec.train and spec.train.lora else "all weights"
    prepare = result.prepare or None
    rows = f" on {prepare.rows_train:,} rows" if prepare is not None else ""
    return (
        f"{base} fine-tuned{rows} with jobspec ({how}). "
        "Loss was computed on the final assistant turn only, including its reasoning."
    )


def _model_name(spec: JobSpec) -> str:
    revision = f" at revision `{spec.model.revision}`" if spec.model.revision else ""
    hub = _hub_name(spec.model.name, "models")
    if hub is not None:
        return f"[{markdown_text(hub)}](https://huggingface.co/{hub}){revision}"
    return f"A local model, `{PurePath(spec.model.name).name}`{revision},"


def _scores(scores: Mapping[str, Score], protocols: Mapping[str, ScoringProtocol]) -> str:
    if not scores:
        return ""
    head = ("benchmark", "score", "over questions", "over samples", "questions", "k", "cut off")
    rows = [
        (
            markdown_text(name),
            f"{_metric(score)} {score.value:.3f}",
            _interval(score.low, score.high),
            _interval(score.sampling_low, score.sampling_high),
            str(score.questions or ""),
            str(score.k or ""),
            "" if score.truncated_frac is None else f"{score.truncated_frac:.1%}",
        )
        for name, score in scores.items()
    ]
    measured = [
        f"- {markdown_text(name)}: {', '.join(_protocol(protocols[name]))}"
        for name in scores
        if name in protocols
    ]
    told = "Scores of the final model with 95 % intervals: over other questions of this kind, and\n"
    told += "over other samples of the same questions. Answers cut off by length count as wrong."
    return "\n\n".join(
        ["## Scores", told, _table(head, rows), *(["\n".join(measured)] * bool(measured))]
    )


def _protocol(protocol: ScoringProtocol) -> Iterator[str]:
    for name in _PROTOCOL:
        value = getattr(protocol, name)
        if value is not None and value is not UNSET:
            yield f"{name} {markdown_text(public(str(value)))}"
    for name, title in (("prompt_sha256", "prompts"), ("benchmark_sha256", "questions")):
        value = getattr(protocol, name)
        if isinstance(value, str) and value:
            yield f"SHA-256 of the {title} `{value[:16]}…`"


def _training(spec: JobSpec, report: TrainReport | None) -> str:
    if spec.train is None:
        return ""
    rows = [(f"`{name}`", settings.spell(getattr(spec.train, name))) for name in _SETTINGS]
    shown = {f"train.{name}" for name in _SETTINGS}
    changed = public(settings.changed(spec))
    others = {name: value for name, value in changed.items() if name.startswith(_TRAINED)}
    rows += [
        (f"`{name.removeprefix(_TRAINED)}`", markdown_text(settings.spell(value)))
        for name, value in others.items()
        if name not in shown
    ]
    return "\n\n".join(["## Training", *_losses(report), _table(("setting", "value"), rows)])


def _losses(report: TrainReport | None) -> Iterator[str]:
    if report is None:
        return
    lines = [
        ("final training loss", report.loss, report.loss_first),
        ("final held-out loss", report.eval_loss, report.eval_loss_first),
    ]
    parts = [
        f"- {title}: {last:.4f}" + (f" (at first {first:.4f})" if first is not None else "")
        for title, last, first in lines
        if last is not None
    ]
    tokens = f"{report.tokens:,} tokens, {report.trained_tokens:,} of them trained"
    parts.append(f"- {report.steps:,} steps, {tokens}")
    yield "\n".join(parts)


def _data(spec: JobSpec, prepare: PrepareReport | None) -> str:
    rows = [
        (f"`{PurePath(source.path).name}`", f"`{source.sha256 or ''}`") for source in _sources(spec)
    ]
    if not rows:
        return ""
    found = [_table(("file", "SHA-256"), rows)]
    if prepare is not None:
        dropped = sum(prepare.dropped.values())
        found.append(
            f"{prepare.rows_in:,} rows: {prepare.rows_train:,} to train on, {prepare.rows_eval:,} "
            f"held out, {dropped:,} dropped. SHA-256 of the data as prepared "
            f"`{prepare.data_sha256}`, of the chat template `{prepare.template_sha256}`, of the "
            f"tokenizer `{prepare.tokenizer_sha256}`."
        )
        found += _overlaps(prepare)
    return "\n\n".join(["## Data", *found])


def _overlaps(prepare: PrepareReport) -> Iterator[str]:
    lines = [
        f"- {markdown_text(name)}: {each.questions_found:,} of {each.questions:,}"
        for name, each in prepare.overlap.items()
        if each is not None and each.questions_found
    ]
    if lines:
        yield "\n".join(["Questions of benchmarks that are in the training data:", "", *lines])


def _reproduction(spec: JobSpec) -> str:
    shown = _public_spec(spec)
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    return f"""## Reproduce

Save this as `spec.json`. A file name without a directory means a file of your own, with the hash
above.

```json
{text}
```

```sh
jobspec fetch spec.json      # download the model and the benchmarks
jobspec enqueue spec.json    # checks every row against its hash
jobspec-worker --drain
jobspec results
```"""


def _public_spec(spec: JobSpec) -> dict[str, Any]:
    """The spec without what is private. Of the paths in it, also relative ones, the last part."""
    plain: dict[str, Any] = msgspec.json.decode(identity.canonical(spec))
    shown: dict[str, Any] = public({k: v for k, v in plain.items() if k not in _PRIVATE})
    shown["model"]["name"] = _hub_name(spec.model.name, "models") or PurePath(spec.model.name).name
    if spec.data is not None:
        for group in (shown["data"], *shown["data"].get("sources", ())):
            if group.get("path"):
                group["path"] = PurePath(group["path"]).name
    if spec.eval is not None and spec.eval.benchmark_dir is not None:
        shown["eval"]["benchmark_dir"] = PurePath(spec.eval.benchmark_dir).name
    return shown


def _versions(manifest: Manifest, cost_of_job: str) -> str:
    device, code = manifest.device, manifest.code
    facts: list[str] = []
    if device.count:
        nodes = manifest.plan.nodes if manifest.plan is not None else 1
        over = f" on each of {nodes} nodes" if nodes > 1 else ""
        facts.append(f"{device.count} × {device.name or device.kind}{over}")
    if isinstance(code.commit, str):
        changed = ", with uncommitted changes" if code.dirty is True else ""
        facts.append(f"jobspec at commit `{code.commit}`{changed}")
    if manifest.image_sha256:
        facts.append(f"container image with SHA-256 `{manifest.image_sha256}`")
    packages = {"Python": manifest.python, **manifest.packages}
    known = [f"{name} {version}" for name, version in packages.items() if version]
    facts += [", ".join(known)] if known else []
    facts += [f"all attempts: {cost_of_job}"] if cost_of_job else []
    lines = [f"- {public(fact)}" for fact in facts]
    return "\n".join(["## Trained with", "", *lines]) if lines else ""


def _sources(spec: JobSpec) -> Sequence[Any]:
    return list_sources(spec.data) if spec.data is not None else ()


def _metric(score: Score) -> str:
    return score.metric.replace("avg_at_", "avg@")


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
