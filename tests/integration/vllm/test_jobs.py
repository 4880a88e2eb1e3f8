"""Jobs whose engine is the real vLLM: through queue and worker, and the eval phase by itself."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from lm_eval.api.instance import Instance

from jobspec.records import base as records
from jobspec.records.attempt import End, Progress
from jobspec.records.base import State
from jobspec.spec.schema import EvalSpec
from tests.support.commands import jobspec
from tests.support.evaluations import generations, make_attempt, run_phase
from tests.support.queues import queue_at
from tests.support.specs import job_spec
from tests.support.vllm import vllm_processes
from tests.support.waiting import until
from tests.support.workers import worker
from worker.inference.engine import EngineChoice
from worker.lm_eval_tasks import lm_eval_engines

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]
START_S = 600.0  # a start imports vLLM four times, which takes minutes on a busy machine


def test_a_job_whose_engine_dies_goes_on_from_its_finished_samples(
    model: Path, tmp_path: Path
) -> None:
    queue = queue_at(tmp_path)
    settings = EvalSpec(
        benchmarks=("aime_demo",),
        benchmark_dir=str(model.parent / "benchmarks"),
        backend="vllm",
        avg_k=16,
        max_gen_toks=48,
    )
    job = queue.enqueue(job_spec(model, name="vllm", eval=settings))
    first = job.paths.attempt(1)
    bench = first.eval / "aime_demo"
    with worker(queue, "--drain") as process:
        until(lambda: list(bench.glob("generations-*")), "the first finished samples", START_S)
        queue.hold(reason="the next attempt is another worker's", by="test")
        for engine in vllm_processes(process.pid):
            engine.kill()
        # The end is written before the state, and the worker is killed after this.
        until(lambda: queue.job(job.id).state is not State.RUNNING, "the job's end", START_S)
    kept = generations(bench)
    end = records.read(first.end, End)
    assert end is not None and queue.job(job.id).state is State.PENDING
    assert "EngineDeadError: SIGKILL ended vLLM's engine core" in end.message, end.message
    assert 0 < len(kept) < 26 * 16

    queue.release()
    with worker(queue, "--drain") as process:
        assert process.wait(START_S) == 0
    assert queue.job(job.id).state is State.SUCCEEDED
    second = job.paths.attempt(2)
    rows = generations(second.eval / "aime_demo")
    assert len(rows) == 26 * 16
    found = {(row["question"], row["sample"]): row["text"] for row in rows}
    assert all(found[row["question"], row["sample"]] == row["text"] for row in kept)
    summary = json.loads(second.done("eval").read_text())
    protocol = summary["protocol"]["aime_demo"]
    assert protocol["engine"] == "vllm" and protocol["engine_versions"]["vllm"]
    assert summary["timing"]["tokens"] < sum(row["tokens"] for row in rows)

    # One chunk is drawn again by vLLM. Its neighbours are others now, so that a text may differ.
    command = ("audit", "eval", job.id, "--json", "--root", queue.paths.root)
    printed = jobspec(*command, code=None, PYTHONWARNINGS="default")  # vLLM calls old functions
    made = json.loads(printed.stdout)
    assert (made["engine"], made["environment"]) == ("vllm", []), printed.stderr
    (bench_audit,) = made["benchmarks"]
    assert (bench_audit["samples"], bench_audit["redrawn"]) == (26 * 16, 8)
    assert printed.returncode == (0 if made["identical"] else 1)


TASK = """\
task: say_it
dataset_path: json
dataset_kwargs:
  data_files:
    test: {directory}/rows.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata: {{version: 3.0}}
"""


def test_lm_evals_own_tasks_run_on_vllm_and_count_as_progress(model: Path, tmp_path: Path) -> None:
    rows = [{"q": f"Say {i}.", "a": str(i)} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "say_it.yaml").write_text(TASK.format(directory=tmp_path))
    settings = EvalSpec(benchmarks=("say_it",), benchmark_dir=str(tmp_path), backend="vllm")
    attempt = make_attempt(tmp_path / "root", model, settings)
    done = run_phase(attempt, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    found = json.loads(attempt.done("eval").read_text())
    assert "bench/say_it/exact_match" in found["metrics"]
    progress = msgspec.json.decode(attempt.progress.read_bytes(), type=Progress)
    assert (progress.done, progress.total) == (6, 6)


def test_a_task_of_lm_evals_reports_each_request_and_may_switch_thinking(
    choice: EngineChoice, model: Path
) -> None:
    template = "{{ messages[0]['content'] }}{% if enable_thinking %}<think>{% endif %}"
    (model / "chat_template.jinja").write_text(template)
    settings = EvalSpec(benchmarks=("say_it",), chat_template_kwargs={"enable_thinking": True})
    reports: list[tuple[int, int]] = []
    with lm_eval_engines.loaded(choice, settings, lambda *at: reports.append(at)) as lm:
        assert lm.max_length == 2048
        assert lm.apply_chat_template([{"role": "user", "content": "x"}]) == "x<think>"
        lm.enable_thinking = False
        assert lm.apply_chat_template([{"role": "user", "content": "x"}]) == "x"
        # A worker ends a phase that reports nothing for long, so every request must be reported.
        lm.generate_until([request_for(f"Say {i}.", i) for i in range(6)])
    assert {(done, 6) for done in range(1, 7)} <= set(reports)


def request_for(prompt: str, index: int) -> Instance:
    settings = {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}
    return Instance("generate_until", doc={}, arguments=(prompt, settings), idx=index)


def test_lm_evals_own_tasks_get_every_gpu_and_the_longest_context(
    choice: EngineChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None))

    def note(**arguments: Any) -> Any:
        given.update(arguments)
        return SimpleNamespace(model=SimpleNamespace(llm_engine=engine, generate=None))

    monkeypatch.setattr(lm_eval_engines.lm_evals_vllm(), "VLLM", note)
    on_gpus = msgspec.structs.replace(choice, devices=8)
    with lm_eval_engines.loaded(on_gpus, EvalSpec(benchmarks=("say_it",)), lambda *at: None):
        pass
    # The model has four heads, and -1 is vLLM's word for the longest context that fits.
    assert given["tensor_parallel_size"] == 4 and given["max_model_len"] == -1
    engine_args = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    known = inspect.signature(engine_args).parameters.keys()
    own = {"pretrained", "think_end_token", "chat_template_args"}
    assert given.keys() - own <= known
