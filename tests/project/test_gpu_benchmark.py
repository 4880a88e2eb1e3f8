"""`make gpu` at toy size on a CPU, so that no route has stopped working when a GPU is at hand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.gpu import page
from benchmarks.gpu.__main__ import run_route, run_routes
from benchmarks.gpu.routes import ROUTES, Bench, Route, RouteError, read_demo

# One of each kind of process; the other training routes differ in the spec's settings alone.
TOY_ROUTES = ["mixed-best", "mixed-trl", "full-compiled", "generation", "tests"]
DEMO = """\
demo: trains on 1 × NVIDIA H100; Transformers generates the answers, because vLLM is not installed
demo: creates a tiny Olmo-3 (byte-level tokens, random weights), training rows and a benchmark
$ jobspec enqueue a.json
demo: avg@4 on 26 questions it was trained on: 0.000 before, 0.952 after: it learned
demo: took 51 s
"""


@pytest.mark.deepspeed
def test_every_kind_of_route_runs_at_toy_size(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "work", toy=True)
    bench.dir.mkdir()
    results = run_routes(bench, TOY_ROUTES, 600.0, tmp_path)
    assert set(results) == set(TOY_ROUTES)
    assert not {name: row for name, row in results.items() if "failed" in row or "skipped" in row}
    for name in TOY_ROUTES[:3]:
        assert results[name]["tokens_per_second"] > 0  # pyright: ignore[reportOperatorIssue]
        assert results[name]["losses"][0] == pytest.approx(5.56, abs=0.1)  # pyright: ignore[reportIndexIssue]
    written = (tmp_path / "toy-size-on-a-cpu.md").read_text()
    for name in TOY_ROUTES[:3]:
        assert f"| {ROUTES[name].title} |" in written
    assert "Generation: engine `hf` (there is no GPU)" in written
    assert "- demo: skipped: not run" in written
    stored = json.loads((tmp_path / "toy-size-on-a-cpu.json").read_text())
    assert stored == results


def test_a_failing_route_is_reported_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(bench: Bench) -> dict[str, object]:
        bench.process("fails", "-c", "raise SystemExit('no such card')")
        return {}

    def hang(bench: Bench) -> dict[str, object]:
        bench.process("hangs", "-c", "import time; time.sleep(600)")
        return {}

    monkeypatch.setitem(ROUTES, "demo", Route("demo", 60.0, fail))
    monkeypatch.setitem(
        ROUTES, "generation", Route("generation", 60.0, lambda bench: {"it": "ran"})
    )
    monkeypatch.setitem(ROUTES, "tests", Route("tests", 16.0, lambda bench: 1 / 0))  # type: ignore[arg-type, return-value]
    bench = Bench(tmp_path, toy=True)
    results = run_routes(bench, ["demo", "generation", "tests"], 600.0, tmp_path)
    assert results["demo"]["failed"] == "exit code 1; no such card"
    assert results["generation"]["it"] == "ran"
    assert "ZeroDivisionError" in str(results["tests"]["failed"])
    assert "- demo: failed: exit code 1; no such card" in page.render("x", bench, results)
    bench.limit_s = 2.0
    began = time.monotonic()
    with pytest.raises(RouteError, match="stopped after 2 s"):
        hang(bench)
    assert time.monotonic() - began < 30


def test_a_route_without_time_left_is_skipped(tmp_path: Path) -> None:
    skipped = run_route(Bench(tmp_path, toy=True), "demo", time.monotonic() + 5)
    assert skipped == {"skipped": "no time was left (--seconds)"}


def test_the_demos_judgement_is_read_off_its_output() -> None:
    assert read_demo(DEMO) == {
        "machine": "trains on 1 × NVIDIA H100; Transformers generates the answers, "
        "because vLLM is not installed",
        "scores": "avg@4 on 26 questions it was trained on: 0.000 before, 0.952 after: it learned",
    }
