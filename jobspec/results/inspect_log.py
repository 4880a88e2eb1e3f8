"""Samples as a log that `inspect view` opens: the JSON format of inspect_ai's eval logs.

Written by hand, since inspect_ai needs many packages; tests read the files with its own reader.

Source: https://inspect.aisi.org.uk/eval-logs.html, version 2 of the format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from jobspec.records.evaluation import Sample, SamplingPlan
from jobspec.version import installed_version

_SCORER = "jobspec"


def file_name(job: str, benchmark: str, made: datetime) -> str:
    """The name under which `inspect view` lists a log: time, task and id."""
    when = made.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%S+00-00")
    task = re.sub(r"[^A-Za-z0-9]+", "-", benchmark)
    return f"{when}_{task}_{_id(job, benchmark)}.json"


def to_log(
    job: str,
    benchmark: str,
    model: str,
    made: datetime,
    samples: Sequence[Sample],
    *,
    plan: SamplingPlan,
    metrics: Mapping[str, float | None],
) -> bytes:
    """The log of one benchmark as JSON; `metrics` are named without the benchmark."""
    when = made.astimezone(UTC).isoformat(timespec="seconds")
    ids = list(dict.fromkeys(sample.question for sample in samples))
    log: dict[str, Any] = {
        "version": 2,
        "status": "success",
        "eval": {
            "run_id": _id(job),
            "created": when,
            "task": benchmark,
            "task_id": _id(job, benchmark),
            "task_version": 0,
            "dataset": {"name": benchmark, "samples": len(ids), "sample_ids": ids},
            "model": model,
            "config": {"epochs": max((sample.sample + 1 for sample in samples), default=plan.k)},
            "packages": {"jobspec": installed_version("jobspec") or "unknown"},
            "metadata": {"job": job, "protocol": msgspec.to_builtins(plan.protocol)},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": _results(samples, metrics),
        "stats": {"started_at": when, "completed_at": when, "model_usage": {}},
        "samples": [_sample(sample, model) for sample in samples],
    }
    return msgspec.json.format(msgspec.json.encode(log), indent=1) + b"\n"


def _results(samples: Sequence[Sample], metrics: Mapping[str, float | None]) -> dict[str, Any]:
    accuracy = sum(sample.right for sample in samples) / len(samples) if samples else None
    values: dict[str, Any] = {
        name: {"name": name, "value": value, "params": {}}
        for name, value in {"accuracy": accuracy, **metrics}.items()
        if value is not None
    }
    score: dict[str, Any] = {"name": _SCORER, "scorer": _SCORER, "params": {}, "metrics": values}
    return {"total_samples": len(samples), "completed_samples": len(samples), "scores": [score]}


def _sample(sample: Sample, model: str) -> dict[str, Any]:
    answer = {"role": "assistant", "content": sample.response, "source": "generate"}
    facts = ("rule", "read", "truncated", "unclosed")
    return {
        "id": sample.question,
        "epoch": sample.sample + 1,
        "input": sample.prompt,
        "target": sample.expected,
        "messages": [{"role": "user", "content": sample.prompt, "source": "input"}, answer],
        "output": {
            "model": model,
            "choices": [
                {
                    "message": answer,
                    "stop_reason": "max_tokens" if sample.finish == "length" else "stop",
                }
            ],
            "usage": {
                "input_tokens": 0,
                "output_tokens": sample.tokens,
                "total_tokens": sample.tokens,
            },
        },
        "scores": {
            _SCORER: {
                "value": "C" if sample.right else "I",
                "answer": sample.answer,
                "explanation": None if sample.rule is None else f"read by the rule: {sample.rule}",
                "metadata": {name: getattr(sample, name) for name in facts},
            }
        },
        "metadata": {},
    }


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:22]
