"""jobspec.checks.check and jobspec.checks.rows: what enqueue refuses, with the place and a hint."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobspec.benchmarks import lm_eval_names
from jobspec.checks import check, rows
from jobspec.cli import cli
from jobspec.errors import BenchmarkError, DataError, JobspecError, ModelError, SpecError
from jobspec.spec import parsing
from jobspec.spec.builder import Request, build, write

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("JOBSPEC_TEST_DATA") or REPOSITORY.parent / "shared/data")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
needs_data = pytest.mark.skipif(
    not (DATA / "tiny_stories260k_hf").is_dir(), reason=f"no reference data in {DATA}"
)


def row(*contents: str) -> str:
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return json.dumps({"messages": messages})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data, a local model's config and no environment."""
    for name in ("JOBSPEC_BENCHMARK_DIR", "JOBSPEC_WORKER_COMMAND", "JOBSPEC_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text("".join(row("2+2?", "4") + "\n" for _ in range(20)))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text('{"max_position_embeddings": 4096}')
    (tmp_path / "tiny/tokenizer.json").write_text("{}")
    return tmp_path


def spec_file(*settings: str, model: str = "./tiny", data: str = "train.jsonl") -> Path:
    small = ("train.max_length=512", "eval.max_gen_toks=512", *settings)
    request = Request(models=[model], data=data, settings=small, name="s")
    Path("specs/s.json").unlink(missing_ok=True)
    return write(build(request), Path("specs"))[0][0]


def checked(*settings: str, **options: str) -> check.CheckedSpec:
    return check.check(spec_file(*settings, **options), Path("root"), rows=False)


def refusal(*settings: str, **options: str) -> JobspecError:
    with pytest.raises(JobspecError) as caught:
        checked(*settings, **options)
    return caught.value


def test_paths_become_absolute_and_the_hash_is_filled_in(place: Path) -> None:
    (place / "t.jinja").write_text(TEMPLATE)
    (place / "bench").mkdir()
    spec = checked("model.chat_template=t.jinja", "eval.benchmark_dir=bench").spec
    assert spec.data is not None and spec.eval is not None
    assert spec.data.path == str(place / "train.jsonl")
    assert spec.data.sha256 == hashlib.sha256((place / "train.jsonl").read_bytes()).hexdigest()
    assert spec.model.name == str(place / "tiny")
    assert spec.model.chat_template == str(place / "t.jinja")
    assert spec.eval.benchmark_dir == str(place / "bench")


def test_other_data_is_another_job(place: Path) -> None:
    first = checked().job
    with (place / "train.jsonl").open("a") as file:
        file.write(row("3+3?", "6") + "\n")
    assert checked().job != first


def test_a_hub_name_stays_a_name(place: Path) -> None:
    assert checked(model="Qwen/Qwen3-8B").spec.model.name == "Qwen/Qwen3-8B"


def test_missing_data(place: Path) -> None:
    error = refusal(data="none.jsonl")
    assert isinstance(error, SpecError)
    assert (error.file, error.place) == ("specs/s.json", "$.data.path")
    assert "none.jsonl` does not exist" in error.message
    assert error.hint is not None and "`jobspec new … --data FILE`" in error.hint


def test_empty_data(place: Path) -> None:
    (place / "empty.jsonl").touch()
    assert "is empty" in refusal(data="empty.jsonl").message


def test_a_directory_as_data(place: Path) -> None:
    assert "can not be read: Is a directory" in refusal(data="tiny").message


def test_changed_data(place: Path) -> None:
    error = refusal(f'data.sha256="{"0" * 64}"')
    assert error.place == "$.data.sha256" and "has changed" in error.message


def test_a_line_that_is_no_json(place: Path) -> None:
    (place / "bad.jsonl").write_text(row("a", "b") + "\n{torn\n" + row("a", "b") + "\n")
    error = refusal(data="bad.jsonl")
    assert isinstance(error, DataError)
    assert (error.file, error.place) == (str(place / "bad.jsonl"), "row 2")


def test_a_row_that_does_not_end_with_the_assistant(place: Path) -> None:
    (place / "bad.jsonl").write_text(row("a", "b") + "\n" + row("a", "b", "c") + "\n")
    error = refusal(data="bad.jsonl")
    assert error.place == "row 2" and "assistant" in error.message and error.hint


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "../nowhere"])
def test_an_unknown_model_path(place: Path, model: str) -> None:
    error = refusal(model=model)
    assert isinstance(error, ModelError)
    assert error.place == "$.model.name" and "does not exist" in error.message and error.hint


def test_weights_as_pickles_alone(place: Path) -> None:
    (place / "tiny/pytorch_model.bin").touch()
    error = refusal()
    assert isinstance(error, ModelError)
    assert "pickles (`pytorch_model.bin`)" in error.message
    assert "safetensors" in (error.hint or "")
    assert (error.file, error.place) == ("specs/s.json", "$.model.name")
    (place / "tiny/model.safetensors").touch()
    checked()


def test_devices_that_do_not_divide_the_batch(place: Path) -> None:
    checked("resources.gpus=4", "train.global_batch_size=8")
    with pytest.raises(JobspecError, match="`3` devices do not divide 8 rows a step") as caught:
        checked("resources.gpus=3", "train.global_batch_size=8")
    assert caught.value.place == "$.resources.gpus"


def test_a_directory_that_is_no_model(place: Path) -> None:
    (place / "tiny/config.json").unlink()
    assert "config.json does not exist" in refusal().message
    (place / "tiny/config.json").write_text("{")
    assert "config.json is not valid JSON" in refusal().message


def test_training_beyond_the_context(place: Path) -> None:
    error = refusal("train.max_length=4097")
    assert error.place == "$.train.max_length" and "4096 tokens" in error.message
    assert checked("train.max_length=4096")


def test_generation_beyond_the_context(place: Path) -> None:
    error = refusal("eval.max_gen_toks=4096")
    assert error.place == "$.eval.max_gen_toks" and "4096 tokens" in error.message
    error = refusal("eval.overrides.aime25.max_gen_toks=5000")
    assert "of aime25" in error.message


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"max_position_embeddings": 40960}, 40960),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        (
            {
                "max_position_embeddings": 40960,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 65536, "rope_parameters": {"rope_theta": 1e6}}, 65536),
    ],
)
def test_context_lengths_of_real_configs(
    place: Path, config: dict[str, object], context: int
) -> None:
    (place / "tiny/config.json").write_text(json.dumps(config))
    assert checked(f"train.max_length={context}")
    assert refusal(f"train.max_length={context + 1}").place == "$.train.max_length"


def test_the_context_of_a_fetched_model(place: Path) -> None:
    snapshot = place / "root/cache/hub/models--Qwen--Qwen3-8B/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"max_position_embeddings": 1000}')
    (snapshot / "tokenizer.json").touch()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    assert refusal("train.max_length=1001", model="Qwen/Qwen3-8B").place == "$.train.max_length"


def test_a_config_without_a_context_is_a_warning(place: Path) -> None:
    (place / "tiny/config.json").write_text("{}")
    assert any("context" in warning for warning in checked().warnings)


def test_code_of_the_model_is_a_warning(place: Path) -> None:
    assert any("code" in warning for warning in checked("model.trust_remote_code=true").warnings)
    assert not any(
        "code" in warning for warning in checked("model.trust_remote_code=false").warnings
    )


def test_an_unknown_benchmark_gets_a_suggestion(place: Path) -> None:
    error = refusal('eval.benchmarks=["aime24","aime52"]')
    assert isinstance(error, BenchmarkError)
    assert error.place == "$.eval.benchmarks[1]"
    assert "did you mean `aime25`?" in (error.hint or "")
    assert "aime52.jsonl" in (error.hint or "")


def test_a_benchmark_that_is_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "bench").mkdir()
    question = {"id": "1", "problem": "1+1?", "answer": "2"}
    (place / "bench/aime_mine.jsonl").write_text(json.dumps(question) + "\n")
    settings = 'eval.benchmarks=["aime_mine"]'
    assert refusal(settings).place == "$.eval.benchmarks[0]"
    assert checked(settings, "eval.benchmark_dir=bench").warnings == []
    monkeypatch.setenv("JOBSPEC_BENCHMARK_DIR", "bench")
    assert "workers must be given" in checked(settings).warnings[0]


def test_a_damaged_benchmark_file(place: Path) -> None:
    (place / "bench").mkdir()
    (place / "bench/aime_mine.jsonl").write_text('{"id": 1, "problem": "1+1?", "answer": "two"}\n')
    error = refusal('eval.benchmarks=["aime_mine"]', "eval.benchmark_dir=bench")
    assert error.place == "row 1" and "aime_mine.jsonl" in (error.file or "")


def test_a_benchmark_directory_that_is_none(place: Path) -> None:
    assert refusal("eval.benchmark_dir=nowhere").place == "$.eval.benchmark_dir"


def test_benchmarks_without_a_file_are_a_warning(place: Path) -> None:
    assert any(w.startswith("minerva_math500, aime24, aime25:") for w in checked().warnings)


def test_a_task_of_lm_evals_is_known(place: Path) -> None:
    pytest.importorskip("lm_eval")
    assert checked('eval.benchmarks=["gsm8k"]').spec.eval
    assert "did you mean `gsm8k`?" in (refusal('eval.benchmarks=["gsm8"]').hint or "")


def test_task_names_are_those_lm_eval_itself_lists() -> None:
    tasks = pytest.importorskip("lm_eval.tasks", reason="needs the worker extra")
    real = set(tasks.TaskManager().all_tasks)
    found = lm_eval_names.lm_eval_names()
    assert found is not None
    assert len(real - found) < 0.005 * len(real)
    assert len(found - real) < 0.005 * len(real)


def test_task_names_can_be_asked_of_the_image(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    image = f"env PYTHONPATH={REPOSITORY} {sys.executable}"
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", image)
    assert "hellaswag" in (rows.lm_eval_names() or ())


def test_without_lm_eval_a_name_is_not_looked_up(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", f"{shlex.quote(sys.executable)} -I -S")
    assert any("lm-eval is not installed" in w for w in checked('eval.benchmarks=["x"]').warnings)


# The row check: the worker's own code in a process of its own


@pytest.fixture
def tiny(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real tokenizer and config of a small trained model, with a chat template beside it."""
    pytest.importorskip("tokenizers", reason="needs the worker extra")
    for file in (DATA / "tiny_stories260k_hf").iterdir():
        (place / "tiny" / file.name).write_bytes(file.read_bytes())
    (place / "t.jinja").write_text(TEMPLATE)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return place


SETTINGS = ("model.chat_template=t.jinja", "eval.max_gen_toks=64")


def prove(*settings: str, **options: str) -> check.CheckedSpec:
    return check.check(spec_file(*SETTINGS, *settings, **options), Path("root"))


@needs_data
def test_rows_are_proved_by_the_workers_code(tiny: Path) -> None:
    found = prove()
    report = found.rows
    assert report is not None
    assert any("without thinking" in warning for warning in found.warnings)
    assert not (tiny / "root").exists(), "checking makes no root"
    assert report.rows_in == 20 and report.rows_train + report.rows_eval == 20
    assert 0 < report.trained_tokens < report.tokens
    assert report.dropped == {} and report.length_percentiles["max"] > 0


@needs_data
def test_a_row_the_worker_refuses(tiny: Path) -> None:
    (tiny / "bad.jsonl").write_text(row("a", "b") + "\n{torn\n")
    with pytest.raises(JobspecError) as caught:
        prove(data="bad.jsonl")
    assert (caught.value.file, caught.value.place) == (str(tiny / "bad.jsonl"), "row 2")
    assert caught.value.hint


@needs_data
def test_a_row_left_out_is_named(tiny: Path) -> None:
    unclosed = row("a", "<think>no end")
    (tiny / "one.jsonl").write_text("\n".join([*[row("2+2?", "4")] * 30, unclosed]) + "\n")
    done = CliRunner().invoke(
        cli, ["validate", str(spec_file(*SETTINGS, data="one.jsonl")), "--root", "root"]
    )
    assert "1 dropped (1 unclosed thinking)" in done.output
    assert "row 31, dropped as unclosed_thinking: " in done.output


@needs_data
def test_think_end_token_must_occur(tiny: Path) -> None:
    with pytest.raises(SpecError) as caught:
        prove("eval.think_end_token=</reasoning>")
    assert caught.value.place == "$.eval.think_end_token"


@needs_data
def test_a_row_refused_under_another_think_end_token_asks_after_it(tiny: Path) -> None:
    said = row("a", "<think>b</think>c")  # under these tags plain text, which the template drops
    (tiny / "t.jinja").write_text((tiny / "t.jinja").read_text().replace("m.content", "''"))
    (tiny / "bad.jsonl").write_text(said + "\n")
    for settings, asked in ((), False), (("eval.think_end_token=</thought>",), True):
        with pytest.raises(JobspecError) as caught:
            prove(*settings, data="bad.jsonl")
        assert caught.value.place == "row 1"
        assert ("$.eval.think_end_token" in (caught.value.hint or "")) == asked


@needs_data
def test_preview_shows_the_trained_span(tiny: Path) -> None:
    spec = check.complete(parsing.load(spec_file("model.chat_template=t.jinja")))
    shown = rows.preview(spec, Path("root"), 1)
    assert shown.text.endswith("<|assistant|>4</s>")
    assert shown.supervised_text == "4</s>"
    trained = tuple(label for label in shown.labels if label != -100)
    assert trained and shown.input_ids[-len(trained) :] == trained


def test_without_the_worker_the_check_is_refused_with_a_way_out(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", f"{shlex.quote(sys.executable)} -I -S")
    with pytest.raises(JobspecError, match="`worker` is missing") as caught:
        check.check(spec_file(), Path("root"))
    assert "--no-row-check" in (caught.value.hint or "")


def test_an_image_command_that_does_not_exist(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", "/nowhere/apptainer exec x.sif python")
    with pytest.raises(JobspecError, match="can't be run"):
        check.check(spec_file(), Path("root"))


@pytest.mark.parametrize(
    ("degree", "heads", "keys", "even"),
    [
        (4, 32, 8, True),
        (16, 32, 8, True),
        (8, 12, 4, False),
        (6, 12, 4, False),
        (3, 12, None, True),
    ],
)
def test_devices_must_share_the_models_heads_evenly(
    place: Path, degree: int, heads: int, keys: int | None, even: bool
) -> None:
    config = {"max_position_embeddings": 4096, "num_attention_heads": heads}
    config |= {} if keys is None else {"num_key_value_heads": keys}
    (place / "tiny/config.json").write_text(json.dumps(config))
    setting = f"train.sequence_parallel={degree}"
    if even:
        assert checked(setting).spec.train is not None
        return
    error = refusal(setting)
    assert (error.file, error.place) == ("specs/s.json", "$.train.sequence_parallel")
    assert f"`{degree}` devices can't evenly share {heads} query heads" in error.message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("resources.gpus=6",), "groups of 4 devices can't be made of `resources.gpus` 6"),
        (('model.attn_implementation="sdpa"',), "`sdpa` attention sees one device's tokens alone"),
    ],
)
def test_rows_are_not_shared_by_what_can_not(
    place: Path, settings: tuple[str, ...], words: str
) -> None:
    error = refusal("train.sequence_parallel=4", *settings)
    assert error.place == "$.train.sequence_parallel"
    assert words in error.message and error.hint
