"""`make gpu` at toy size on a CPU, so that no route has stopped working when a GPU is at hand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks.gpu import page
from benchmarks.gpu.__main__ import run_route, run_routes
from benchmarks.gpu.bench import Bench, Route, RouteError
from benchmarks.gpu.routes import ROUTES, read_demo, train
from benchmarks.gpu.work_kinds import IDLE, KINDS, Work, kind_of, longest, seconds_by_kind

# One of each kind of process; the other training routes differ in the spec's settings alone.
TOY_ROUTES = ["mixed-defaults", "mixed-trl", "whole-defaults", "generation", "tests"]
DEMO = """\
demo: trains on 1 × NVIDIA H100; Transformers generates the answers, because vLLM is not installed
demo: creates a tiny Olmo-3 (byte-level tokens, random weights), training rows and a benchmark
$ jobspec enqueue a.json
demo: avg@4 on 26 questions it was trained on: 0.000 before, 0.952 after: it learned
demo: took 51 s
"""


@pytest.mark.deepspeed
def test_every_kind_of_route_runs_at_toy_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path / "work", toy=True, profile=True)
    bench.dir.mkdir()
    results = run_routes(bench, TOY_ROUTES, 600.0, tmp_path)
    assert set(results) == set(TOY_ROUTES)
    assert not {name: row for name, row in results.items() if "failed" in row or "skipped" in row}
    for name in TOY_ROUTES[:3]:
        assert results[name]["tokens_per_second"] > 0  # pyright: ignore[reportOperatorIssue]
        assert results[name]["losses"][0] == pytest.approx(5.56, abs=0.1)  # pyright: ignore[reportIndexIssue]
    emulated = train(bench, kind="mixed", name="emulated", precision="float8")
    assert emulated["kernels"] == "float8"
    assert emulated["losses"][0] == pytest.approx(5.56, abs=0.1)
    profile: Any = results["mixed-defaults"]["profile"]
    assert sum(profile["kinds"].values()) == pytest.approx(profile["step_s"], rel=0.01)
    assert all(profile["kinds"][kind] > 0 for kind in (*KINDS[:3], "optimizer"))
    printed = capsys.readouterr().out
    assert all(f"  {kind} " in printed for kind in KINDS)
    written = (tmp_path / "toy-size-on-a-cpu.md").read_text()
    assert "## Time by kind of work" in written
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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_192x192_64x3_1x2_h_bz_coopB_NNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm>", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("_rms_norm_forward_kernel", "norms"),
        ("_rms_norm_backward_kernel", "norms"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>", "optimizer"),
        ("aten::_fused_adamw_", "optimizer"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "communication"),
        ("void at::native::elementwise_kernel<128, 4, ...direct_copy...>", "pointwise and copies"),
        ("Memcpy DtoD (Device -> Device)", "pointwise and copies"),
        ("_swiglu_forward_kernel", "pointwise and copies"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_3", "pointwise and copies"),
    ],
)
def test_a_kernel_is_counted_by_its_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_idle_is_the_time_in_which_nothing_ran() -> None:
    gemm, nccl = Work("gemm", 1.0, 2.0), Work("nccl", 2.0, 3.0)
    assert seconds_by_kind([nccl, gemm], 10.0, overlapping=True)[IDLE] == 6.0
    assert seconds_by_kind([nccl, gemm], 10.0, overlapping=False)[IDLE] == 5.0
    assert longest([gemm, nccl, gemm], 1) == [("matrix products", "gemm", 4.0)]
