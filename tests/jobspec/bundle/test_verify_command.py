"""`jobspec verify`: what is true of a bundle, and what a forger can't get past it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobspec.bundle import training_facts, verification
from jobspec.spec.schema import TrainSpec
from tests.support.bundles import BENCHMARK, DEMO, edit, nested, unpack
from tests.support.commands import jobspec, jobspec_json

METRICS, SCORES = "attempts/1/metrics.jsonl", f"{BENCHMARK}/scores.jsonl"


def test_a_real_run_is_verified_without_its_root(tmp_path: Path) -> None:
    found = jobspec_json("verify", DEMO, cwd=tmp_path)
    assert found["verified"] and found["job"] == "demo-model-lr5e-5-07a58a361e"
    ok = {each["check"] for each in found["findings"] if each["outcome"] == "ok"}
    wanted = {"hashes", "records", "steps", "losses", "learning rates", "tokens", "samples"}
    assert wanted | {"scores"} <= ok
    unknown = [each["detail"] for each in found["findings"] if each["outcome"] == "unknown"]
    assert any("not included, only named" in detail for detail in unknown)
    assert any("`jobspec replay` trains again" in detail for detail in unknown)
    assert list(tmp_path.iterdir()) == []
    directory = unpack(tmp_path / "unpacked").dir
    again = jobspec("verify", directory).stdout
    assert found["fingerprint"] in again and "nothing differs" in again


def rows(number: int, **fields: Any) -> Callable[[Any], None]:
    return lambda value: value[number].update(fields)


def first_sample(**fields: Any) -> Callable[[Any], None]:
    return lambda value: value[0]["samples"][0].update(fields)


FORGED = {
    "a better score": (
        "attempts/1/eval.json",
        nested("metrics", "bench/aime_demo/avg_at_4", to=0.75),
        "scores: `bench/aime_demo/avg_at_4` is stated as 0.75; the samples give 0.0",
    ),
    "a narrower interval": (
        "attempts/1/eval.json",
        nested("intervals", "aime_demo", "questions", 1, to=0.1),
        "the interval of `aime_demo` over questions is stated as",
    ),
    "a sample that counts as right": (SCORES, first_sample(right=True, answer="1"), "scores:"),
    "a right sample without an answer": (
        SCORES,
        first_sample(right=True, answer=None),
        "sample 0 of question `A` counts as right, but gave no answer",
    ),
    "other tokens": (SCORES, first_sample(tokens=3), "other tokens than its score"),
    "another answer": (SCORES, rows(0, answer="7"), "was scored against another answer"),
    "a question less": (SCORES, lambda value: value.pop(), "the scores are of other questions"),
    "a lower loss": (METRICS, rows(-3, loss=0.01, step=190), "losses:"),
    "a step less": (METRICS, lambda value: value.pop(10), "steps: step"),
    "another rate": (METRICS, rows(10, learning_rate=1e-5), "learning rates: step"),
    "more tokens": (
        "attempts/1/train.json",
        nested("tokens", to=999_999),
        "tokens: the report states 999999 as `num_tokens`",
    ),
    "other rows": ("attempts/1/prepare.json", nested("rows_train", to=300), "steps: 190 steps"),
    "another seed": ("spec.json", nested("train", "seed", to=1), "records: the seed of training"),
    "more epochs": ("spec.json", nested("train", "num_train_epochs", to=20.0), "steps: 190 steps"),
    "other data": ("spec.json", nested("data", "sha256", to="ab" * 32), "records: the data's"),
    "another result": (
        "attempts/1/result.json",
        nested("metrics", "bench/aime_demo/stderr", to=0.5),
        "records: `bench/aime_demo/stderr` of the metrics in the result",
    ),
    "another report in the result": (
        "attempts/1/result.json",
        nested("prepare", "tokens", to=7),
        "records: `tokens` of the data's report in the result is stated as 7 and as ",
    ),
    "another job": (
        "bundle.json",
        nested("job", to="demo-model-lr5e-5-0123456789"),
        "records: the job is stated as 'demo-model-lr5e-5-0123456789' and as",
    ),
    "no id": ("bundle.json", nested("job", to="demo"), "records: the job's name is stated as"),
    "another stage": ("spec.json", nested("train", "zero_stage", to=3), "records: the ZeRO stage"),
    "another optimizer": (
        "attempts/1/manifest.json",
        nested("engine", "optimizer", to="AdamW"),
        "records: `optimizer` of the engine is stated as 'AdamW'",
    ),
    "more devices": (
        "attempts/1/manifest.json",
        nested("plan", "world_size", to=8),
        "records: the number of ranks is stated as 8 and as 2",
    ),
    "samples of another job": (
        f"{BENCHMARK}/generations-00000.jsonl",
        rows(0, seed=7),
        "protocol: sample 0 of question `A` has another job's seed",
    ),
    "another prompt": (
        f"{BENCHMARK}/questions.jsonl",
        rows(3, prompt="What is 1 + 1?"),
        "protocol: the prompts have the SHA-256",
    ),
    "greedy samples": (
        f"{BENCHMARK}/plan.json",
        nested("protocol", "temperature", to=0.0),
        "protocol: `temperature` of the protocol of `aime_demo` is stated as 0.0 and as 0.6",
    ),
    "another temperature than asked for": (
        "spec.json",
        nested("eval", "temperature", to=1.0),
        "protocol: `temperature` of `aime_demo` is 0.6; the spec has 1.0",
    ),
    "more samples than asked for": (
        "spec.json",
        nested("eval", "avg_k", to=2),
        "protocol: `aime_demo` has 4 samples a question; the spec asks for 2",
    ),
    "a question more than stated": (
        f"{BENCHMARK}/plan.json",
        nested("protocol", "questions", to=25),
        "protocol: `questions` of the protocol of `aime_demo` is stated as 25 and as 26",
    ),
    "a shorter training": (
        "attempts/1/end.json",
        nested("phases", 1, "wall_s", to=3.5),
        "times: `wall_s` is 49.717709584999966; its phases and `overhead_s` are 15.405",
    ),
    "other energy than in the result": (
        "attempts/1/end.json",
        nested("phases", 1, "energy", to={"gpu_j": 5.0, "cpu_j": None}),
        "times: its phases are not those of result.json",
    ),
    "too many phases": (
        "attempts/1/end.json",
        nested("phases", to=[{"phase": "train", "wall_s": 0.0}] * 1000),
        "times: 1,000 phases",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_does_not_fit_is_named_although_its_hashes_do(name: str, tmp_path: Path) -> None:
    file, change, expected = FORGED[name]
    bundle = unpack(tmp_path)
    if name == "a lower loss":
        last = last_step(bundle.dir / METRICS)
        edit(bundle, METRICS, rows(last, loss=0.01))
    else:
        edit(bundle, file, change)
    found = verification.verify(bundle.dir)
    assert not found.verified
    differing = [f"{f.check}: {f.detail}" for f in found.findings if f.outcome == "differs"]
    assert any(expected in text for text in differing), differing
    refused = jobspec("verify", bundle.dir, code=1)
    assert "NOT what it states" in refused.stdout


def last_step(path: Path) -> int:
    """The line of the last training step."""
    lines = path.read_text().splitlines()
    return max(number for number, line in enumerate(lines) if '"loss"' in line)


def test_a_spec_without_replaced_texts_gives_the_job_its_id(tmp_path: Path) -> None:
    bundle = unpack(tmp_path)
    edit(bundle, "spec.json", nested("model", "name", to="allenai/Olmo-3-7B"))
    edit(bundle, "spec.json", nested("data", "path", to="rows.jsonl"))
    edit(bundle, "spec.json", nested("eval", "benchmark_dir", to=None))
    (found,) = [f for f in verification.verify(bundle.dir).findings if f.check == "spec"]
    assert found.outcome == "differs" and "gives the id `demo-model-lr5e-5-" in found.detail


@pytest.mark.parametrize(
    "kind",
    ["constant_with_warmup", "constant", "linear", "cosine", "polynomial", "inverse_sqrt"],
)
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.03, 1.0])
def test_the_learning_rates_are_those_of_transformers(kind: Any, warmup_ratio: float) -> None:
    import torch
    from transformers import get_scheduler

    total = 40
    train = TrainSpec(learning_rate=2e-4, lr_scheduler_type=kind, warmup_ratio=warmup_ratio)
    warmup = min(-(-int(warmup_ratio * total * 100) // 100), total - 1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=train.learning_rate)
    schedule: Any = get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=total
    )
    for step in range(1, total + 1):
        optimizer.step()
        schedule.step()
        expected = schedule.get_last_lr()[0]
        assert training_facts.learning_rate(train, step, total) == pytest.approx(
            expected, rel=1e-12
        )


def test_a_name_that_an_id_spells_otherwise(tmp_path: Path) -> None:
    bundle = unpack(tmp_path)
    edit(bundle, "spec.json", nested("name", to="Demo_Model-lr5e.5"))
    (found,) = [f for f in verification.verify(bundle.dir).findings if f.check == "records"]
    assert found.outcome == "ok"
