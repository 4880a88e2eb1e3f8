"""jobspec.dashboard.page and jobspec.monitoring.gpu_hours: what the report says, from real
roots; no browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobspec.dashboard import curves, document, page, runs, sample_choice
from jobspec.dashboard.curves import MOST_POINTS
from jobspec.dashboard.document import PageDocument, RunReader
from jobspec.dashboard.runs import RunRow
from jobspec.monitoring import gpu_hours
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records.attempt import PhaseTime, Result
from jobspec.records.base import Reason
from jobspec.results import settings
from jobspec.spec.schema import ResourcesSpec
from jobspec.storage.layout import EvaluationPaths
from tests.support import example_root
from tests.support.commands import jobspec, jobspec_json
from tests.support.paths import fast_dir
from tests.support.queues import (
    WORKER,
    claim_next,
    ended,
    enqueue_and_claim,
    fail,
    report_progress,
    send_heartbeat,
)
from tests.support.specs import base_spec, job_spec, tuned_spec


@pytest.fixture(scope="module")
def group() -> Iterator[Queue]:
    with fast_dir() as directory:
        yield example_root.make(directory / "root")


def made(queue: Queue) -> PageDocument:
    return document.whole_document(queue, queue.jobs())


def row(found: PageDocument, name: str) -> RunRow:
    (one,) = (row for row in found.runs if row.name == name)
    return one


def test_curves_follow_the_attempts_that_count(group: Queue) -> None:
    found = made(group)
    running = next(row for row in found.runs if row.state == "running")
    curve = found.details[running.id].curves.train
    steps = curve["step"]
    assert steps == list(dict.fromkeys(steps)) and steps[-1] == 300  # resumed from 100 of 200
    assert {len(column) for column in curve.values()} == {len(steps)}
    assert list(curve)[4:] == [
        *("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "memory_gib"),
    ]
    assert running.why == "1: bad node"


def test_the_time_between_two_attempts_is_no_training_time() -> None:
    rows = [
        {"attempt": 1, "step": 1, "loss": 2.0, "time": "2026-11-22T10:00:00Z"},
        {"attempt": 1, "step": 2, "loss": 2.0, "time": "2026-11-22T11:00:00Z"},
        {"attempt": 2, "step": 3, "loss": 2.0, "time": "2026-11-23T10:00:00Z"},
        {"attempt": 2, "step": 4, "loss": 2.0, "time": "2026-11-23T10:30:00Z"},
    ]
    assert curves.curves(rows).train["hours"] == [0, 1, 1, 1.5]


def test_a_row_has_the_settings_and_losses_that_it_ended_with(group: Queue) -> None:
    found = made(group)
    tuned, base = row(found, "qwen3-8b-lr1e-5"), row(found, "qwen3-8b-base")
    assert tuned.settings["model.name"] == "Qwen/Qwen3-8B"
    assert found.defaults["train.learning_rate"] == 1e-5 and found.defaults["train.seed"] == 42
    assert row(found, "qwen3-8b-lr5e-6").settings["train.learning_rate"] == 5e-6
    assert "train" in tuned.groups and "train" not in base.groups
    assert (tuned.loss, tuned.eval_loss) == (pytest.approx(0.48), pytest.approx(0.63))
    assert tuned.tokens == 13_107_200 and base.tokens is None
    assert tuned.hours == pytest.approx(7210 / 3600)
    assert tuned.gpu_hours == pytest.approx(8 * 7210 / 3600)
    score = tuned.scores["aime24"]
    assert score.low is not None and score.high is not None
    assert score.low < score.value == 0.62 < score.high


def test_a_running_row_has_what_its_newest_metrics_say(group: Queue) -> None:
    running = next(row for row in made(group).runs if row.state == "running")
    assert running.loss is not None
    assert running.eval_loss == pytest.approx(running.loss + 0.1)
    assert running.tokens == 300 * 32_768 and running.tokens_per_second == 5210
    assert (running.progress, running.eta_s) == (0.6, 7421.0)


def test_a_group_that_is_there_only_if_wanted_is_a_setting() -> None:
    changed = settings.changed(job_spec(data__path="/d", train={"lora": {"r": 8}}))
    assert changed["train.lora"] == "yes" and changed["train.lora.r"] == 8
    assert "train.lora" not in settings.changed(job_spec(data__path="/d", train={}))
    assert settings.DEFAULTS["train.lora"] is None


def test_a_thinned_curve_keeps_its_mean_and_its_end() -> None:
    rows = [{"step": n, "epoch": n / 100, "loss": float(n)} for n in range(1, 1001)]
    thin = curves.curves(rows).train
    assert len(thin["step"]) == 250 <= MOST_POINTS and thin["step"][-1] == 1000
    assert (thin["loss"][0], thin["step"][0]) == (2.5, 4)
    assert curves.curves(rows[:5]).train["loss"] == [1, 2, 3, 4, 5]


def test_non_numeric_values_are_left_out(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    claim.dir.metrics.write_bytes(
        b'{"phase":"train","step":1,"loss":NaN}\n{"phase":"train","step":2,"loss":0.5}\n'
        b'{"phase":"train","step":3,"loss":null}\n{"phase":"train","step":4,"loss":Infinity}\n{"ph'
    )
    found = made(queue)
    (details,) = found.details.values()
    assert (details.curves.train["step"], details.curves.train["loss"]) == ([2], [0.5])
    assert not re.search(r"NaN|Infinity", page.embed(found))


def test_a_damaged_spec_or_older_records_do_not_hide_the_rest(queue: Queue) -> None:
    job = queue.enqueue(base_spec())
    for path in (job.paths.spec, job.entry.path(queue.paths)):
        path.chmod(0o644)
        path.write_bytes(b"{")
    claim = enqueue_and_claim(queue, base_spec(notes="old"))
    claim.dir.manifest.write_bytes(b'{"host": "old"}')
    claim.dir.result.write_bytes(b'{"job": "x", "attempt": 1, "metrics": {"bench/a/acc": 0.5}}')
    claim.dir.end.write_bytes(b'{"reason": "succeeded", "some": "new field"}')
    queue.reap(worker=WORKER, now=True)  # it had finished: its commit is made
    found = {row.id: row for row in made(queue).runs}
    assert found[job.id].groups == [] and found[claim.job].scores["a"].value == 0.5


def test_no_text_of_a_spec_an_error_or_a_model_ends_the_script(queue: Queue) -> None:
    evil = "</script><script>alert(1)</script><!--"
    enqueue_and_claim(queue, base_spec(model=f"a/{evil}"))
    claim = enqueue_and_claim(queue, base_spec(model=f"b/{evil}", notes="2"))
    example_root.answer_questions(claim.dir, right=3, text=evil)
    claim.dir.log("eval").write_text(f"{evil}\n")
    claim.end(ended(Reason.FAILED, message=evil))
    claim.finish("failed")
    found = made(queue)
    assert evil in found.details[claim.job].samples.shown[0].response
    text = page.render(found)
    assert text.count("<script") == 2 and text.count("</script>") == 2
    inside = text.partition('id="document">')[2].partition("</script>")[0]
    assert msgspec.json.decode(inside, type=PageDocument) == found


def test_scripts_never_parse_text_as_markup() -> None:
    for asset in resources.files("jobspec.dashboard").joinpath("assets").iterdir():
        forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
        assert not re.search(forbidden, asset.read_text()), asset.name


# --- samples and log


def test_samples_are_wrong_and_right_in_turn_with_the_reasoning_apart(group: Queue) -> None:
    found = made(group)
    samples = found.details[row(found, "qwen3-8b-lr1e-5").id].samples
    assert samples.total == 24 and [each.right for each in samples.shown[:4]] == [False, True] * 2
    wrong = samples.shown[0]
    assert wrong.reasoning == "<think>Let me count to 7."
    assert (wrong.answer, wrong.read, wrong.rule) == ("7", "7", "boxed")
    assert wrong.response == "The answer is \\boxed{7}." and wrong.expected == "107"
    assert len({each.question for each in samples.shown[:8]}) == 8


def test_samples_of_a_large_evaluation_are_few_and_short(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    example_root.answer_questions(claim.dir, right=6, text="x" * 100_000)
    found = sample_choice.choose(queue.job(claim.job), 10_000)
    assert found.total == 24 and 2 <= len(found.shown) <= 6
    assert "characters …]" in found.shown[0].response
    assert sum(len(each.response) for each in found.shown) < 10_000


def test_an_evaluation_that_is_not_complete_shows_no_samples(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    example_root.answer_questions(claim.dir, right=6)
    EvaluationPaths(claim.dir.eval / "aime24").scores.unlink()
    assert sample_choice.choose(queue.job(claim.job), 10_000).shown == []


def test_the_end_of_the_log_has_no_colours_and_no_progress_bar(group: Queue) -> None:
    found = made(group)
    log = found.details[row(found, "qwen3-8b-lr1e-5").id].log
    assert log is not None and log.name == "attempt 1, train"
    assert log.text == "loaded 8 shards\n100 %\nsaved step 400"


# --- comparisons


def test_runs_with_the_same_questions_have_paired_differences(group: Queue) -> None:
    found = made(group)
    assert len(found.pairs) == 28  # of 8 runs with scores
    base, tuned = row(found, "qwen3-8b-base"), row(found, "qwen3-8b-lr1e-5")
    (pair,) = (each for each in found.pairs if {each.a, each.b} == {base.id, tuned.id})
    assert pair.questions == 12 and pair.benchmark == "aime24"
    assert pair.low is not None and pair.high is not None and pair.low <= pair.mean <= pair.high


def test_of_many_runs_only_pairs_with_the_untuned_model_are_compared(
    group: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "_ALL_PAIRS", 4)
    found = made(group)
    bases = {row(found, f"{name}-base").id for name in ("qwen3-8b", "olmo-3-7b-think")}
    assert len(found.pairs) == 6 and {each.a for each in found.pairs} == bases


# --- reading again


def test_only_what_has_changed_is_read_again(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    done = fail(queue, base_spec(), "no")
    claim = enqueue_and_claim(queue, tuned_spec())
    report_progress(claim, 10)
    reader, read = RunReader(queue, queue.jobs), list[str]()

    def read_row(job: Job, workers: Any) -> RunRow:
        read.append(job.id)
        return original(job, workers)

    original = runs.read_row
    monkeypatch.setattr(runs, "read_row", read_row)
    assert [row.id for row in reader.read()[1]] == [done.id, claim.job] == read
    report_progress(claim, 20)
    read.clear()
    assert reader.read()[1][1].progress == 0.2 and read == []  # only what a running job writes
    read.clear()
    reader.read()
    assert read == []
    claim.end(ended(Reason.SUCCEEDED))
    claim.finish("succeeded", Result(job=claim.job, attempt=1))
    assert reader.read()[1][1].state == "succeeded" and read == [claim.job]


def test_a_waiting_run_says_what_for_as_soon_as_a_worker_is_there(queue: Queue) -> None:
    job = queue.enqueue(base_spec(resources=ResourcesSpec(gpus=16)))
    reader = RunReader(queue, queue.jobs)
    facts, (before,) = reader.read()
    assert before.waits_for is None and "no worker is alive" in (facts.nothing_runs or "")
    send_heartbeat(queue, WORKER, None)
    facts, (after,) = reader.read()
    assert after.id == job.id and after.waits_for == "waits for 16 GPUs, workers have 8"
    assert facts.workers_alive == 1


# --- time


def phase_usage(queue: Queue) -> list[gpu_hours.PhaseUsage]:
    (job,) = queue.jobs()
    return gpu_hours.phase_usage(job)


def lost(queue: Queue) -> dict[tuple[int, str], float]:
    return {(s.attempt, s.phase): s.lost_s for s in phase_usage(queue)}


def rows(*, first: int, last: int, **head: Any) -> bytes:
    """A row a second, a step a row."""
    made: list[dict[str, Any]] = [{"step": n, "loss": 1.0} for n in range(first, last + 1)]
    if head:
        made.insert(0, {"step": first - 1} | head)
    times = [{"phase": "train", "time": f"2026-11-22T10:00:{r['step']:02d}.000000Z"} for r in made]
    return b"".join(
        msgspec.json.encode(time | row) + b"\n" for time, row in zip(times, made, strict=True)
    )


def test_training_beyond_what_was_resumed_from_is_lost(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    claim.dir.manifest.write_bytes(
        b'{"device": {"kind": "cuda", "count": 4}, "plan": {"nodes": 2}}'
    )
    claim.dir.metrics.write_bytes(rows(first=1, last=41))
    claim.dir.done("prepare").write_bytes(b"{}")
    claim.end(ended(Reason.NODE))  # 3,600 s of training, 12 s of preparing, 0.75 s between
    claim.requeue("node")
    again = claim_next(queue)
    again.dir.metrics.write_bytes(rows(first=32, last=40, resumed_from={"attempt": 1, "step": 31}))
    found = lost(queue)
    assert found[1, "train"] == pytest.approx(3600 * 0.25)  # of 40 s between rows, the last 10
    assert (found[1, "prepare"], found[1, "overhead"]) == (0, 0)
    assert phase_usage(queue)[0].gpus == 8
    assert phase_usage(queue)[1].gpu_h == pytest.approx(8.0)


def test_without_a_state_all_training_is_lost_and_with_one_not(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    claim.dir.metrics.write_bytes(rows(first=1, last=41))
    claim.end(ended(Reason.PREEMPTED))
    claim.requeue("preempted")
    assert lost(queue)[1, "train"] == 3600
    (claim.dir.checkpoints / "step-41").mkdir(parents=True)
    assert lost(queue)[1, "train"] == 0
    assert phase_usage(queue)[0].gpus == 0


def test_all_work_of_a_job_without_a_result_is_lost(queue: Queue) -> None:
    fail(queue, base_spec(), "no")
    assert all(each.lost_s == each.wall_s > 0 for each in phase_usage(queue))


def test_an_attempt_without_an_end_counts_until_its_last_row(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    claim.dir.events.write_bytes(
        b'{"time":"2026-11-22T10:00:00Z","event":"start","phase":"prepare"}\n'
        b'{"time":"2026-11-22T10:00:05Z","event":"end","phase":"prepare"}\n'
        b'{"time":"2026-11-22T10:00:05Z","event":"start","phase":"train"}\n{"torn'
    )
    claim.dir.metrics.write_bytes(rows(first=6, last=45))
    queue.reap(worker=WORKER, now=True)
    took = {each.phase: each.wall_s for each in phase_usage(queue)}
    assert took == {"prepare": 5.0, "train": 40.0}


def test_the_running_attempt_has_lost_nothing_yet(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    claim.dir.metrics.write_bytes(rows(first=1, last=10))
    report_progress(claim, 10)
    claim.dir.end.write_bytes(
        msgspec.json.encode(
            ended(
                Reason.SUCCEEDED,
            )
        )
    )
    assert set(lost(queue).values()) == {0.0}


def test_time_spent_on_converting_a_state_is_shown(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    times = (PhaseTime(phase="convert", wall_s=1800.0), PhaseTime(phase="train", wall_s=3600.0))
    claim.dir.done("convert").write_text("{}")
    claim.end(msgspec.structs.replace(ended(Reason.PREEMPTED), phases=times))
    (details,) = made(queue).details.values()
    assert {each.phase: each.hours for each in details.usage}["convert"] == 0.5


def test_the_hours_of_all_attempts_and_what_was_lost(group: Queue) -> None:
    found = made(group)
    usage = found.details[row(found, "qwen3-8b-lr1e-5").id].usage
    assert [(each.phase, each.gpu_hours) for each in usage[:2]] == [("train", 12), ("eval", 4)]
    failed = next(row for row in found.runs if row.state == "failed")
    assert all(each.lost_hours == each.hours > 0 for each in found.details[failed.id].usage)


# --- the command


@pytest.mark.parametrize(("models", "most"), [(5, 2e6), (22, 4e6)])
def test_a_report_is_small_and_needs_no_network(tmp_path: Path, models: int, most: float) -> None:
    with fast_dir() as directory:
        queue = Queue.create(directory / "root")
        names = tuple(f"org/model-{n}" for n in range(models))
        example_root.group(queue, names, 2000 // models, "long " * 1000)
        count = len(queue.jobs())
        found = jobspec_json("report", "-o", tmp_path / "r.html", "--root", queue.paths.root)
    text = (tmp_path / "r.html").read_text()
    assert found["jobs"] == count == 4 * models + 2 and found["bytes"] == len(text.encode()) < most
    ours = text.partition('id="document">')[0] + text.rpartition("<noscript")[2]
    assert not re.search(r"""(src|href)=["'](?!#|data:)|url\(|@import|https?://(?!www.w3)""", ours)


def test_a_report_of_some_jobs_and_where_it_can_not_go(group: Queue, tmp_path: Path) -> None:
    root = group.paths.root
    out = tmp_path / "r.html"
    jobspec("report", "qwen*", "--state", "succeeded", "-o", out, "--root", root)
    text = out.read_text()
    assert "qwen3-8b-lr1e-5" in text and "olmo-3-7b-think-lr1e-5" not in text
    done = jobspec("report", "-o", tmp_path / "no" / "r.html", "--root", root, code=1)
    assert f"{tmp_path / 'no' / 'r.html'}: No such file or directory" in done.stderr
    assert not list(tmp_path.glob(".r.html*"))


def test_phases_of_an_end_that_kept_them_cost_nothing(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    kept = (PhaseTime(phase="prepare", kept=True), PhaseTime(phase="train", wall_s=7.0))
    claim.end(msgspec.structs.replace(ended(Reason.NODE), phases=kept, overhead_s=0.0))
    claim.requeue("node")
    assert [(each.phase, each.wall_s) for each in phase_usage(queue)] == [("train", 7.0)]
