"""The real commands on finished evaluations: compare, samples, calibrate, the estimates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.benchmarks import protocol, published
from jobspec.errors import SpecError
from jobspec.queue.queue import Queue
from jobspec.records.attempt import Result
from jobspec.records.base import Reason
from jobspec.records.reports import ScoringProtocol
from jobspec.results import calibration, confidence
from jobspec.spec import builder, parsing
from tests.support.commands import jobspec, jobspec_json
from tests.support.queues import claim_next, ended
from tests.support.scores import scored_job, write_evaluation
from tests.support.specs import base_spec

WRONG, RIGHT = [False] * 4, [True] * 4
HALF = [True, False, True, False]


def run(queue: Queue, *args: str | Path, code: int = 0) -> Any:
    return jobspec_json(*args, "--root", queue.paths.root, code=code)


# compare


def test_compare_pairs_by_question_and_says_what_is_beyond_noise(queue: Queue) -> None:
    scored_job(queue, "before", {"aime24": {"q1": HALF, "q2": WRONG, "q3": WRONG}})
    scored_job(queue, "after", {"aime24": {"q3": RIGHT, "q2": RIGHT, "q4": WRONG}})
    (row,) = run(queue, "compare", "before", "after", "--anyway")["benchmarks"]
    found = row["difference"]
    # q2 and q3 are shared: 0 → 1 in both, without any spread.
    assert (found["questions"], found["only_a"], found["only_b"]) == (2, 1, 1)
    assert (found["a"], found["b"], found["mean"]) == (0.0, 1.0, 1.0)
    # All 8 samples of a side agree: its bound is z²/(8 + z²) = 0.324 away.
    far = 1.959964**2 / (8 + 1.959964**2)
    assert found["sampling_low"] == pytest.approx(1 - math.hypot(far, far))
    assert found["sampling_high"] == 1.0
    assert found["beyond_noise"] is True


def test_compare_prints_both_intervals(queue: Queue) -> None:
    scored_job(queue, "before", {"aime24": {"q1": HALF, "q2": HALF}})
    scored_job(queue, "after", {"aime24": {"q1": HALF, "q2": RIGHT}})
    done = jobspec("compare", "before", "after", "--root", queue.paths.root)
    head, line = done.stdout.splitlines()[3:5]
    assert head.split("  ")[0] == "BENCHMARK"
    # A: error² = 2 · ¼/3/4 = 1/24 and 8/7 · 24/4 = 48/7 samples; B: 1/48 and 8/7 · 48 · 3/16.
    low_a, high_a = confidence.wilson(0.5, 48 / 7)
    low_b, high_b = confidence.wilson(0.75, 72 / 7)
    low = 0.25 - math.hypot(0.75 - low_b, high_a - 0.5)
    high = 0.25 + math.hypot(high_b - 0.75, 0.5 - low_a)
    assert f"{low:+.3f} to {high:+.3f}" in line
    assert line.split()[1:4] == ["0.500", "0.750", "+0.250"] and line.split()[-2:] == ["no", "2"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt_sha256", "c" * 64), ("temperature", 0.7), ("top_k", 20), ("shots", 4),
     ("protocol", "stock"), ("max_gen_toks", 16384), ("kv_cache_dtype", "fp8"),
     ("chat_template_kwargs", {"a": 1})],
)  # fmt: skip
def test_compare_refuses_scores_measured_differently(
    queue: Queue, field: str, value: object
) -> None:
    scored_job(queue, "before", {"aime24": {"q1": HALF}})
    scored_job(queue, "after", {"aime24": {"q1": RIGHT}}, **{field: value})
    done = jobspec("compare", "before", "after", "--root", queue.paths.root, code=1)
    assert field in done.stderr and "--anyway" in done.stderr and done.stdout == ""
    (row,) = run(queue, "compare", "before", "after", code=1)["benchmarks"]
    assert row["difference"] is None and [each["field"] for each in row["differs"]] == [field]
    shown = jobspec("compare", "before", "after", "--anyway", "--root", queue.paths.root).stdout
    assert "measured differently" in shown and field in shown


def test_other_k_is_refused_too(queue: Queue) -> None:
    scored_job(queue, "before", {"aime24": {"q1": HALF}})
    scored_job(queue, "after", {"aime24": {"q1": [True] * 8}})
    assert (
        "k 4 and 8"
        in jobspec("compare", "before", "after", "--root", queue.paths.root, code=1).stderr
    )


def test_scores_of_different_versions_may_be_compared() -> None:
    assert (
        protocol.differences(ScoringProtocol(engine="hf", k=1), ScoringProtocol(engine="vllm", k=1))
        == []
    )


def test_runs_of_one_stop_rule_are_compared_whatever_it_led_to(queue: Queue) -> None:
    rule = {"half_width": 0.05, "k_at_most": 64}
    scored_job(queue, "before", {"aime24": {"q1": HALF}}, stop_rule=rule)
    scored_job(queue, "after", {"aime24": {"q1": [*HALF, True]}}, stop_rule=rule)
    (row,) = run(queue, "compare", "before", "after")["benchmarks"]
    assert row["differs"] == [] and row["difference"]["mean"] > 0
    scored_job(queue, "other", {"aime24": {"q1": HALF}}, stop_rule=rule | {"half_width": 0.1})
    done = jobspec("compare", "before", "other", "--root", queue.paths.root, code=1)
    assert "stop_rule" in done.stderr


def test_scores_of_different_readers_are_not_compared(queue: Queue) -> None:
    scored_job(queue, "before", {"aime24": {"q1": HALF}})
    scored_job(queue, "after", {"aime24": {"q1": RIGHT}}, answer_reader=2)
    done = jobspec("compare", "before", "after", "--root", queue.paths.root, code=1)
    assert "answer_reader null and 2" in done.stderr and "`jobspec rescore`" in done.stderr


def test_compare_only_what_both_have(queue: Queue) -> None:
    scored_job(queue, "before", {"aime24": {"q1": HALF}, "aime25": {"q1": HALF}})
    scored_job(queue, "after", {"aime25": {"q1": HALF}, "aime_x": {"q1": HALF}})
    rows = run(queue, "compare", "before", "after")["benchmarks"]
    assert [row["benchmark"] for row in rows] == ["aime25"]
    done = jobspec(
        "compare", "before", "after", "--benchmark", "aime24", "--root", queue.paths.root, code=1
    )
    assert "`aime24` is not in both" in done.stderr and "aime_x" in done.stderr


def test_compare_a_job_without_scores(queue: Queue) -> None:
    scored_job(queue, "before", {"aime24": {"q1": HALF}})
    queue.enqueue(base_spec(name="waits"))
    done = jobspec("compare", "before", "waits", "--root", queue.paths.root, code=1)
    assert "is pending" in done.stderr and "hint: " in done.stderr


# samples


def test_samples_shows_prompt_text_answer_and_outcome(queue: Queue) -> None:
    scored_job(queue, "one", {"aime24": {"q1": HALF, "q2": WRONG}})
    done = jobspec("samples", "one", "--wrong", "--limit", "3", "--root", queue.paths.root)
    assert done.stdout.splitlines()[:4] == [
        "── question q1, answer 7",
        "user: What is q1?",
        "── sample 1: wrong, answered 8, rule: box (8\\text{ ways}), 101 tokens",
        "thought 1 \\x1b[31m\\boxed{8}",  # what a model writes can't colour the terminal
    ]
    assert done.stdout.count("What is q1?") == 1
    assert "3 of 6 samples shown; 2 of 8 right" in done.stderr


def test_samples_of_one_question_in_json(queue: Queue) -> None:
    scored_job(queue, "one", {"aime24": {"q1": HALF, "q2": [False] * 4}, "aime25": {"x": HALF}})
    found = run(queue, "samples", "one", "--benchmark", "AIME2024", "--question", "q2")
    assert found["total"] == 4
    assert {row["question"] for row in found["samples"]} == {"q2"}
    assert found["samples"][0]["prompt"] == "user: What is q2?\n"
    assert not any(row["right"] for row in found["samples"])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "name one with --benchmark"),
        (("--benchmark", "aime26"), "no benchmark `aime26`"),
        (("--benchmark", "aime24", "--question", "q11"), "ids look like `q1`"),
    ],
)
def test_samples_of_what_is_not_there(queue: Queue, args: tuple[str, ...], said: str) -> None:
    scored_job(queue, "one", {"aime24": {"q1": HALF}, "aime25": {"q1": HALF}})
    assert said in jobspec("samples", "one", *args, "--root", queue.paths.root, code=1).stderr


def test_the_samples_of_an_epoch(queue: Queue) -> None:
    job = scored_job(queue, "one", {"aime24": {"q1": WRONG}})
    epoch = job.paths.attempt(1).eval / "checkpoints" / "epoch-2" / "aime24"
    write_evaluation(epoch, {"q1": RIGHT})
    found = run(queue, "samples", "one", "--benchmark", "epoch-2/aime24")["samples"]
    assert all(row["right"] for row in found)


# calibrate


def entry(**scores: published.PublishedScore) -> published.PublishedResult:
    settings = {"temperature": 0.6, "top_p": 0.95}
    return published.PublishedResult(
        model="a/b", variant="thinking", by="them", source="Table 1", eval=settings, scores=scores
    )


def test_the_published_numbers_are_those_of_the_reports() -> None:
    known = {each.name: each for each in published.load()}
    qwen = known["Qwen/Qwen3-8B:thinking"]
    assert {name: score.score for name, score in qwen.scores.items()} == {
        "minerva_math500": 97.4, "aime24": 76.0, "aime25": 67.3, "gpqa_diamond": 62.0,
        "ifeval_chat": 85.0,
    }  # fmt: skip
    assert all(each.source and each.scores for each in known.values())
    olmo = known["allenai/Olmo-3-7B-Think:thinking"]
    assert "minerva_math500" not in olmo.scores, "that report has full Minerva MATH only"


def test_a_model_alone_means_its_publisher() -> None:
    found = published.chosen(published.load(), ["Qwen/Qwen3-8B"])
    assert [each.variant for each in found] == ["thinking", "non-thinking"]
    with pytest.raises(SpecError, match="no published scores of `x/y`"):
        published.chosen(published.load(), ["x/y"])


@pytest.mark.parametrize("each", published.load(), ids=lambda each: each.name)
def test_the_specs_have_the_published_settings(each: published.PublishedResult) -> None:
    spec = calibration.spec_of(each)
    assert spec.eval is not None and spec.train is None and spec.model.name == each.model
    for name, theirs in each.scores.items():
        settings = spec.eval.overrides[name]
        assert settings.max_gen_toks == theirs.max_gen_toks
        assert settings.avg_k == (theirs.k or 4)
    for field, value in each.eval.items():
        assert getattr(spec.eval, field) == value


def test_agreement_depends_on_the_sampling_error(queue: Queue) -> None:
    job = scored_job(queue, "cal", {"aime24": {"q1": HALF, "q2": RIGHT}})
    near = published.PublishedScore(score=90.0, k=4, questions=2, max_gen_toks=32768)
    (row,) = calibration.rows(entry(aime24=near), job)
    # Ours: √(¼/3)/2; theirs, with as many samples: the same.
    error = 100 * math.sqrt(0.25 / 3) / 2
    assert (row.ours, row.published, row.difference) == (75.0, 90.0, -15.0)
    assert row.ours_error == pytest.approx(error) and row.published_error == pytest.approx(error)
    assert row.within is True and row.differs == []
    far = msgspec.structs.replace(near, score=100.0, runs=16)
    (row,) = calibration.rows(entry(aime24=far), job)
    assert row.published_error == pytest.approx(error / 4)
    assert 1.96 * math.hypot(error, error / 4) > 25
    assert row.within is True
    further = msgspec.structs.replace(far, score=40.0)
    assert calibration.rows(entry(aime24=further), job)[0].within is False


def test_one_sample_a_question_decides_nothing(queue: Queue) -> None:
    job = scored_job(queue, "cal", {"aime24": {"q1": [True], "q2": [False]}})
    theirs = published.PublishedScore(score=50.0, k=1, questions=2, max_gen_toks=32768)
    assert calibration.rows(entry(aime24=theirs), job)[0].within is None


def test_settings_that_are_not_the_published_ones_are_named(queue: Queue) -> None:
    job = scored_job(queue, "cal", {"aime24": {"q1": HALF}}, temperature=1.0)
    theirs = published.PublishedScore(score=50.0, k=4, questions=30, max_gen_toks=32768)
    (row,) = calibration.rows(entry(aime24=theirs), job)
    assert row.differs == ["temperature 1.0 instead of 0.6", "questions 1 instead of 30"]


def test_calibrate_enqueues_first_and_compares_afterwards(queue: Queue, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    theirs = published.PublishedScore(score=50.0, k=4, questions=2, max_gen_toks=32768)
    file.write_bytes(msgspec.json.encode({"entries": [entry(aime24=theirs)]}))
    args = ("calibrate", "a/b", "--published", file)
    (made,) = run(queue, *args)["jobs"]
    assert (made["state"], made["already"]) == ("pending", False)
    claim = claim_next(queue)
    write_evaluation(claim.dir.eval / "aime24", {"q1": HALF, "q2": HALF})
    claim.end(ended(Reason.SUCCEEDED))
    claim.finish("succeeded", Result(job=claim.job, attempt=1))
    found = run(queue, *args)
    assert found["jobs"][0]["job"] == made["job"] and found["jobs"][0]["already"]
    (row,) = found["rows"]
    assert (row["ours"], row["difference"], row["within"]) == (50.0, 0.0, True)
    done = jobspec(*args, "--root", queue.paths.root)
    assert done.stdout.splitlines()[1].split()[:3] == ["a/b", "thinking", "aime24"]
    assert "Table 1" in done.stderr


def test_calibrate_writes_specs_to_fetch_with(queue: Queue, tmp_path: Path) -> None:
    root = queue.paths.root
    done = jobspec("calibrate", "--all", "--write", tmp_path / "s", "--root", root)
    assert len(done.stdout.splitlines()) == len(published.load())
    assert queue.jobs() == []


def test_calibrate_asks_the_default_benchmarks_unless_others_are_named(
    queue: Queue, tmp_path: Path
) -> None:
    def written(name: str, *args: str, code: int = 0) -> list[tuple[str, ...]]:
        place = tmp_path / name
        done = jobspec("calibrate", *args, "--write", place, "--root", queue.paths.root, code=code)
        files = sorted(place.glob("*.json"))
        assert code == 0 or "there are scores on aime24, aime25" in done.stderr
        return [spec.eval.benchmarks for spec in map(parsing.load, files) if spec.eval]

    olmo, qwen = "allenai/Olmo-3-7B-Think", "Qwen/Qwen3-8B:thinking"
    assert written("a", olmo) == [("aime24", "aime25")]
    named = written("b", qwen, "--benchmarks", "GPQA-Diamond,ifeval_chat")
    assert named == [("gpqa_diamond", "ifeval_chat")]
    code = ("humaneval_plus_chat", "mbpp_plus_chat")
    assert written("c", "--all", "--benchmarks", ",".join(code)) == [code, code]
    assert written("d", olmo, "--benchmarks", "ifeval_chat", code=1) == []


def test_calibrate_needs_a_model_and_trains_nothing(queue: Queue) -> None:
    root = queue.paths.root
    jobspec("calibrate", "--root", root, code=2)
    args = ("Qwen/Qwen3-8B", "--set", "model.name=other", "--root", root)
    assert "would score another model" in jobspec("calibrate", *args, code=1).stderr


# what scoring will take


def validated(queue: Queue, tmp_path: Path, *settings: str) -> tuple[dict[str, Any], str]:
    request = builder.Request(models=["Qwen/Qwen3-8B"], train=False, settings=settings, name="v")
    ((path, _),) = builder.write(builder.build(request), tmp_path / "specs")
    done = jobspec("validate", path, "--json", "--root", queue.paths.root)
    return json.loads(done.stdout)["specs"][0]["scoring"], done.stderr


def test_tokens_at_most_and_nothing_guessed(queue: Queue, tmp_path: Path) -> None:
    found, said = validated(queue, tmp_path)
    assert found["tokens_at_most"] == (500 + 60 * 32) * 32768
    assert found["typical_tokens"] is None and found["hours_at_most"] is None
    assert "79,298,560 tokens at most" in said and "hours not known yet" in said


def test_lengths_and_speed_measured_in_this_root(queue: Queue, tmp_path: Path) -> None:
    right = {"aime24": {"q1": HALF}, "aime25": {"q1": HALF}}
    job = scored_job(queue, "earlier", right)
    scored_job(queue, "of-another", {"minerva_math500": {"q": [True]}}, model="other/model")
    settings = ('eval.benchmarks=["aime24","aime25"]', "eval.limit=10")
    found, said = validated(queue, tmp_path, *settings)
    assert found["tokens_at_most"] == 2 * 10 * 32 * 32768
    assert found["typical_tokens"] == 2 * 10 * 32 * 1000
    assert (found["tokens_per_second"], found["speed_of"]) == (2000.0, job.id)
    assert found["typical_hours"] == pytest.approx(640_000 / 2000 / 3600)
    assert f"5m 20s to 2h 54m at the 2,000 tok/s of {job.id}" in said


def test_a_task_of_unknown_size(queue: Queue, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    found, said = validated(queue, tmp_path, 'eval.benchmarks=["gsm8k","aime24"]')
    assert found["tokens_at_most"] is None and "not known for gsm8k" in said


# eval


def test_eval_enqueues_a_job_that_trains_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    args = ("eval", "--checkpoint", "org/m", "--benchmarks", "aime24", "--set", "eval.avg_k=8")
    done = jobspec(*args, "--root", root)
    spec = Queue(root).job(done.stdout.strip()).spec
    assert spec.train is None and spec.data is None and spec.eval is not None
    assert (spec.model.name, spec.eval.benchmarks, spec.eval.avg_k) == ("org/m", ("aime24",), 8)
    assert spec.name == "eval-m" and "jobspec fetch" in done.stderr
    again = jobspec_json(*args, "--root", root)
    assert (again["job"], again["already"]) == (done.stdout.strip(), True)


def test_eval_of_a_checkpoint_is_named_after_its_job(tmp_path: Path) -> None:
    root = tmp_path / "root"
    place = root / "jobs/qwen-lr1e-5-0123456789/attempts/2/checkpoints/epoch-3"
    place.mkdir(parents=True)
    (place / "config.json").write_text('{"max_position_embeddings": 40960}')
    (place / "tokenizer.json").write_text("{}")
    found = jobspec_json("eval", "--checkpoint", place, "--root", root)
    assert found["name"] == "eval-qwen-lr1e-5-0123456789-epoch-3"


def test_eval_of_a_missing_path_is_refused(tmp_path: Path) -> None:
    done = jobspec("eval", "--checkpoint", "out/run/epoch-3", cwd=tmp_path, code=1)
    assert "epoch-3 does not exist" in done.stderr


def test_results_against_a_job_and_compare_over_seeds(queue: Queue) -> None:
    scored_job(queue, "before", {"aime24": {"q1": HALF, "q2": HALF}})
    scored_job(queue, "after", {"aime24": {"q1": RIGHT, "q2": HALF}})
    shown = jobspec("results", "--against", "before", "--root", queue.paths.root).stdout
    rows = run(queue, "results", "--against", "before")["results"]
    found = {row["name"]: row["against"] for row in rows}
    assert found["before"] == {} and found["after"]["aime24"]["mean"] == 0.25
    need = found["after"]["aime24"]["samples_needed"]
    assert f"about {need} samples a question would decide it" in shown
    assert "aime24 +0.250" in shown and ", p 0." in shown
    (row,) = run(queue, "compare", "before", "after", "--seeds")["benchmarks"]
    assert row["over_seeds"] is None and row["difference"]["test"].startswith("Cochran")
