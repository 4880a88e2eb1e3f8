"""`import jobspec`: runs as rows for pandas and polars, their curves, and the notebook's table."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pandas
import polars
import pytest

import jobspec
from jobspec.errors import JobNotFound, RootError
from jobspec.queue.queue import Queue
from jobspec.records.attempt import Result
from jobspec.records.base import Reason
from jobspec.storage import fs
from tests.support import example_root
from tests.support.browser import Browser, browser
from tests.support.commands import environment
from tests.support.paths import REPOSITORY, fast_dir
from tests.support.queues import ended, enqueue_and_claim, fail, succeed
from tests.support.specs import base_spec, job_spec, tuned_spec


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with fast_dir() as directory:
        example_root.make(directory / "jobspec-root")
        yield directory / "jobspec-root"


def loaded(code: str) -> set[str]:
    """The modules that a process has after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_is_light_and_each_name_works_alone(root: Path) -> None:
    ours = {name for name in loaded("import jobspec") if name.startswith("jobspec")}
    assert ours == {"jobspec"}
    names = "from jobspec import JobSpec, Queue, Run, RunTable, results, runs"
    found = loaded(f"{names}\nassert len(results({str(root)!r})) == len(runs({str(root)!r})) > 8")
    assert not found & {"pandas", "polars", "numpy", "torch", "click", "rich"}
    with pytest.raises(AttributeError, match="no `nothing`"):
        jobspec.nothing  # noqa: B018


def test_a_module_of_results_does_not_hide_the_function(root: Path) -> None:
    code = f"import jobspec.results.table, jobspec\nassert len(jobspec.results({str(root)!r})) > 8"
    assert "jobspec.results.listing" in loaded(code)


def test_pandas_and_polars_take_the_table_as_it_is(root: Path) -> None:
    table = jobspec.results(root)
    one, other = pandas.DataFrame(table), polars.DataFrame(table)
    assert list(one.columns) == other.columns == list(table[0])
    assert len(one) == other.height == len(table) == 10
    assert str(one["aime24"].dtype) == "float64" and other["aime24"].dtype == polars.Float64
    known = one[one["state"] == "succeeded"]
    assert (known["aime24_low"] < known["aime24"]).all()
    assert other.filter(polars.col("state") == "failed")["why"].item() == (
        "failed: row 17: no final turn"
    )
    assert all(type(row) is dict for row in table)


def test_the_rows_have_what_differs_and_the_final_losses(queue: Queue) -> None:
    for seed in (1, 2):
        spec = job_spec(name=f"s{seed}", data__path="/d", train={"seed": seed})
        succeed(queue, spec, {"bench/aime24/avg_at_32": 0.5})
    first, second = jobspec.results(queue.paths.root)
    assert (first["train.seed"], second["train.seed"]) == (1, 2)
    assert (first["aime24"], first["aime24_low"]) == (0.5, None), "no interval is known"
    assert "data.path" not in first


def test_jobs_may_be_named(root: Path) -> None:
    assert {row["model"] for row in jobspec.results(root, "olmo-3-7b-think*")} == {
        "allenai/Olmo-3-7B-Think"
    }
    with pytest.raises(JobNotFound):
        jobspec.results(root, "nothing-*")
    with pytest.raises(RootError):
        jobspec.runs(root / "missing")


def test_the_curve_of_a_run_that_was_resumed(root: Path) -> None:
    (run,) = jobspec.runs(root, "olmo-3-7b-instruct-lr5e-6*")
    assert run.state == "running" and run.final_model is None
    rows = run.metrics()
    curve = pandas.DataFrame(rows)
    steps = curve["step"][curve["loss"].notna()].tolist()
    assert steps == list(range(1, 301)), "the first attempt's, up to where the second resumed"
    assert curve["eval_loss"].notna().sum() == 6 and set(curve["attempt"]) == {1, 2}
    assert {"learning_rate", "grad_norm", "tokens_per_second"} <= set(curve.columns)
    assert polars.DataFrame(rows, infer_schema_length=None)["eval_loss"].count() == 6
    (base,) = jobspec.runs(root, "qwen3-8b-base*")
    assert base.metrics() == []


def test_the_spec_and_the_model_of_a_run(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    claim.dir.final_model.mkdir()
    claim.end(ended(Reason.SUCCEEDED))
    claim.finish("succeeded", Result(job=claim.job, attempt=1, metrics={}))
    (run,) = jobspec.runs(queue.paths.root)
    assert run.id == claim.job and run.spec == tuned_spec()
    assert run.final_model is not None and run.final_model.samefile(claim.dir.final_model)


def test_the_example_of_the_docs_runs(root: Path) -> None:
    text = (REPOSITORY / "docs" / "python.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    command = [sys.executable, "-c", f"{code}\nprint(scores.shape, best['name'][0])"]
    done = subprocess.run(
        command, cwd=root.parent, env=environment(), capture_output=True, text=True, check=True
    )
    *runs, last = done.stdout.splitlines()
    assert len(runs) == 6 and last == "(10, 7) olmo-3-7b-think-lr1e-5"


# The notebook's table


def test_the_notebooks_table_escapes_all_text_and_loads_nothing(queue: Queue) -> None:
    succeed(queue, base_spec("a/<b>&\"'"), {"bench/<i>x/acc": 0.5})
    fail(queue, base_spec(), "<script>alert(1)</script>")
    html = jobspec.results(queue.paths.root)._repr_html_()
    assert "a/&lt;b&gt;&amp;&quot;&#x27;" in html and "&lt;i&gt;x acc" in html
    assert "<small>&lt;script&gt;alert(1)" in html and "<script" not in html
    assert "http" not in html and "url(" not in html and "src=" not in html
    assert "No runs yet" in jobspec.results(queue.paths.root)[:0]._repr_html_()


def test_a_part_of_the_table_is_a_table(root: Path) -> None:
    table = jobspec.results(root)
    part = table[2:4]
    assert isinstance(part, jobspec.RunTable) and part == list(table)[2:4]
    assert part._repr_html_().count('<th scope="row"') == 2


def test_only_a_decided_score_is_called_the_best(queue: Queue) -> None:
    for name, mean in (("low", 0.2), ("high", 0.8)):
        metrics = {"bench/aime24/avg_at_32": mean, "bench/aime24/stderr": 0.01}
        succeed(queue, base_spec(name=name), metrics)
    html = jobspec.results(queue.paths.root)._repr_html_()
    assert html.count("0.800 ★") == 1 and "0.200 ★" not in html
    metrics = {"bench/aime24/avg_at_32": 0.81, "bench/aime24/stderr": 0.01}
    succeed(queue, base_spec(name="higher"), metrics)
    html = jobspec.results(queue.paths.root)._repr_html_()
    assert "0.800 ≈" in html and "0.810 ≈" in html and "0.200 ≈" not in html


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def test_the_notebooks_table_in_a_browser(root: Path, tmp_path: Path, window: Browser) -> None:
    html = jobspec.results(root)._repr_html_()
    page = tmp_path / "cell.html"
    head = '<!doctype html><html lang="en" data-ready="yes"><title>cell</title><main><h1>Runs</h1>'
    fs.replace(page, f'<meta charset="utf-8">{head}{html}</main>'.encode())
    for theme, colour in (("light", "rgb(26, 29, 33)"), ("dark", "rgb(232, 234, 237)")):
        window.prefer(prefers_color_scheme=theme)
        window.open(page.as_uri(), width=1280)
        text = "return getComputedStyle(document.querySelector('.jobspec-runs td')).color"
        assert window.js(text) == colour
        assert not window.faults() and not window.errors()
    titles = window.js("return [...document.querySelectorAll('thead th')].map(e => e.innerText)")
    assert titles[:6] == ["Run", "State", "math500", "aime24 avg@32", "Train loss", "Held-out loss"]
    window.open(page.as_uri(), width=390)
    wide = "return document.documentElement.scrollWidth <= innerWidth"
    assert window.js(wide), "on a phone only the table scrolls"


def test_jupyters_theme_goes_before_the_systems(
    root: Path, tmp_path: Path, window: Browser
) -> None:
    html = jobspec.results(root)._repr_html_()
    page = tmp_path / "cell.html"
    body = f'<html data-ready="yes"><body data-jp-theme-light="false">{html}'
    fs.replace(page, f'<!doctype html><meta charset="utf-8">{body}'.encode())
    window.prefer(prefers_color_scheme="light")
    window.open(page.as_uri())
    text = "return getComputedStyle(document.querySelector('.jobspec-runs')).backgroundColor"
    assert window.js(text) == "rgb(20, 23, 27)"


def test_rows_are_json(root: Path) -> None:
    assert msgspec.json.decode(msgspec.json.encode(list(jobspec.results(root))))
