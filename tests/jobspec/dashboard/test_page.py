"""jobspec.dashboard.page and jobspec.monitoring.gpu_hours: what the report says, from real
roots; no browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import plotly.graph_objects as go
import pytest

from jobspec.dashboard import charts, runs
from jobspec.dashboard import page as html
from jobspec.dashboard.runs import MOST_POINTS, Point, thinned
from jobspec.monitoring import gpu_hours
from jobspec.queue.queue import Queue
from jobspec.records.attempt import PhaseTime
from jobspec.records.base import Reason
from tests.support import example_root
from tests.support.commands import jobspec, jobspec_json
from tests.support.paths import fast_dir
from tests.support.queues import WORKER, claim_next, ended, enqueue_and_claim, fail, report_progress
from tests.support.specs import base_spec, tuned_spec


@pytest.fixture(scope="module")
def group() -> Iterator[Queue]:
    with fast_dir() as directory:
        yield example_root.make(directory / "root")


def test_plotly_accepts_every_figure(group: Queue) -> None:
    made = charts.figures(runs.read(group.jobs()))
    assert [figure.id for figure in made] == [
        *("loss", "eval_loss", "rate-minerva_math500", "rate-aime24"),
        *("epochs-minerva_math500", "epochs-aime24", "mean_response_tokens", "truncated_frac"),
        "time",
    ]
    for figure in made:
        go.Figure(msgspec.to_builtins({"data": figure.data, "layout": figure.layout}))


def test_curves_follow_the_attempts_that_count(group: Queue) -> None:
    run = next(run for run in runs.read(group.jobs()) if run.row.state == "running")
    steps = [point.step for point in run.loss]
    assert steps == sorted(set(steps)) and steps[-1] == 300  # resumed from 100 of 200, then 200
    assert run.row.attempts[0].reason == "node"


def test_scores_by_rate_have_the_models_own_score_beside(group: Queue) -> None:
    made = {figure.id: figure for figure in charts.figures(runs.read(group.jobs()))}
    traces = made["rate-aime24"].data
    assert [trace["name"] for trace in traces] == [
        *("Qwen/Qwen3-8B", "Qwen/Qwen3-8B, base"),
        *("allenai/Olmo-3-7B-Think", "allenai/Olmo-3-7B-Think, base"),
    ]
    assert traces[0]["x"] == [5e-6, 1e-5, 2e-5]
    bars = traces[0]["error_y"]
    below, score, above = bars["arrayminus"][1], traces[0]["y"][1], bars["array"][1]
    assert score > 0.5 and below > above > 0.1  # the interval, which leans away from 1
    assert [e["x"][-1] for e in made["epochs-aime24"].data] == [8] * 6


def test_a_thinned_curve_keeps_its_mean_and_its_end() -> None:
    points = [Point(epoch=n / 100, step=n, value=float(n)) for n in range(1, 1001)]
    thin = thinned(points)
    assert len(thin) == 334 <= MOST_POINTS and thin[-1].step == 1000
    assert thin[0].value == 2.0 and thin[0].step == 3
    assert thinned(points[:5]) == points[:5]


def test_non_numeric_values_are_left_out(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    claim.dir.metrics.write_bytes(
        b'{"phase":"train","step":1,"loss":NaN}\n{"phase":"train","step":2,"loss":0.5}\n'
        b'{"phase":"train","step":3,"loss":null}\n{"phase":"train","step":4,"loss":Infinity}\n{"ph'
    )
    (run,) = runs.read(queue.jobs())
    assert [(point.step, point.value) for point in run.loss] == [(2, 0.5)]
    page = html.content(queue, queue.jobs())
    assert "NaN" not in page and "Infinity" not in page


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
    text = html.content(queue, queue.jobs())
    assert job.id[-10:] in text and "0.500" in text


def test_text_from_a_spec_is_escaped(queue: Queue) -> None:
    evil = "</script><script>alert(1)</script>"
    enqueue_and_claim(queue, base_spec(model=f"a/{evil}"))
    claim = enqueue_and_claim(queue, base_spec(model=f"b/{evil}", notes="2"))
    claim.end(ended(Reason.FAILED, message=evil))
    claim.finish("failed")
    page = html.render(queue, queue.jobs())
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_an_empty_root_has_a_page(queue: Queue) -> None:
    page = html.render(queue, [])
    assert "No run has scores yet." in page and "There are no jobs here." in page


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
    found = runs.read(queue.jobs())
    assert {row.phase: row.hours for row in html.phases(found)}["convert"] == 0.5
    (time,) = (figure for figure in charts.figures(found) if figure.id == "time")
    assert "convert" in [trace["name"] for trace in time.data]


def test_the_sum_of_all_phases(group: Queue) -> None:
    table = {row.phase: row for row in html.phases(runs.read(group.jobs()))}
    assert list(table) == ["prepare", "train", "eval", "overhead", "all"]
    assert table["eval"].gpu_hours == pytest.approx(8 * 0.5 * 8)
    assert 0 < table["all"].lost_frac < table["train"].lost_frac < 1


# --- the command


def test_the_report_of_fifty_jobs_is_small_and_needs_no_network(tmp_path: Path) -> None:
    with fast_dir() as directory:
        queue = Queue.create(directory / "root")
        example_root.group(queue, tuple(f"org/model-{n}" for n in range(12)), steps=2000)
        assert len(queue.jobs()) == 50
        found = jobspec_json("report", "-o", tmp_path / "r.html", "--root", queue.paths.root)
    page = (tmp_path / "r.html").read_text()
    assert found["jobs"] == 50 and found["bytes"] == len(page.encode()) < 6e6
    ours = page.replace(html._plotly(), "")
    assert not re.search(r"""(src|href)=["'](?!#|data:)|url\(|@import|https?://""", ours)


def test_a_report_of_some_jobs_and_where_it_can_not_go(group: Queue, tmp_path: Path) -> None:
    root = group.paths.root
    out = tmp_path / "r.html"
    jobspec("report", "qwen*", "--state", "succeeded", "-o", out, "--root", root)
    text = out.read_text()
    assert "qwen3-8b-lr1e-5" in text and "olmo-3-7b-think-lr1e-5" not in text
    done = jobspec("report", "-o", tmp_path / "no" / "r.html", "--root", root, code=1)
    assert "cannot be written" in done.stderr
    assert not list(tmp_path.glob(".r.html*"))


def test_without_its_packages_it_names_the_extra(group: Queue, tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("raise ModuleNotFoundError('jinja2')")
    done = jobspec(
        "report", "-o", tmp_path / "r.html", "--root", group.paths.root, code=1,
        PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[3]}",
    )  # fmt: skip
    assert 'pip install "jobspec[report]"' in done.stderr


def test_phases_of_an_end_that_kept_them_cost_nothing(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    kept = (PhaseTime(phase="prepare", kept=True), PhaseTime(phase="train", wall_s=7.0))
    claim.end(msgspec.structs.replace(ended(Reason.NODE), phases=kept, overhead_s=0.0))
    claim.requeue("node")
    assert [(each.phase, each.wall_s) for each in phase_usage(queue)] == [("train", 7.0)]
