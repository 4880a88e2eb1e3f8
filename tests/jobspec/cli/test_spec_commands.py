"""The real commands on specs: new, validate, enqueue, schema."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from jobspec.queue.queue import Queue
from jobspec.spec import parsing
from tests.support.commands import jobspec, jobspec_json
from tests.support.paths import REPOSITORY

ROW = '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}\n'
UNCHECKED = "--no-row-check"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text(ROW * 3)
    return tmp_path


def new(place: Path, *args: str) -> Path:
    return place / jobspec("new", *args, cwd=place).stdout.strip()


def test_new_with_a_model_alone_writes_a_spec_that_validates(place: Path) -> None:
    done = jobspec("new", "--model", "allenai/Olmo-3-7B-Think", cwd=place)
    assert done.stdout == "specs/olmo-3-7b-think-lr1e-5.json\n"
    assert done.stderr == ""
    jobspec("validate", UNCHECKED, done.stdout.strip(), cwd=place)


def test_new_warns_of_missing_data_once(place: Path) -> None:
    done = jobspec(
        "new", "--model", "a/b", "--learning-rate", "1e-5", "--learning-rate", "2e-5",
        "--data", "none.jsonl", cwd=place,
    )  # fmt: skip
    assert done.stderr.count("none.jsonl` does not exist yet") == 1
    assert done.stdout.splitlines() == ["specs/b-lr1e-5.json", "specs/b-lr2e-5.json"]


def test_new_again_says_so_and_new_otherwise_is_refused(place: Path) -> None:
    new(place, "--model", "a/b")
    assert "same content" in jobspec("new", "--model", "a/b", cwd=place).stderr
    done = jobspec("new", "--model", "a/b", "--epochs", "3", cwd=place, code=1)
    assert "specs/b-lr1e-5.json: exists" in done.stderr and "hint: " in done.stderr
    assert done.stdout == ""


def test_new_in_json(place: Path) -> None:
    found = jobspec_json("new", "--model", "a/b", cwd=place)
    row = {"path": "specs/b-lr1e-5.json", "name": "b-lr1e-5", "written": True}
    assert found == {"schema": 1, "specs": [row]}


def test_new_options_reach_the_spec(place: Path) -> None:
    path = new(
        place, "--model", "a/b", "--epochs", "2", "--benchmarks", "aime24, aime25", "--name", "x",
        "--set", "train.seed=7", "-o", "elsewhere",
    )  # fmt: skip
    spec = parsing.load(path)
    assert path == place / "elsewhere/x.json"
    assert spec.train is not None and spec.eval is not None
    assert (spec.train.num_train_epochs, spec.train.seed) == (2, 7)
    assert spec.eval.benchmarks == ("aime24", "aime25")


def test_rates_with_commas_and_sweeps_write_a_grid(place: Path) -> None:
    args = (
        "new",
        "--model",
        "a/b",
        "--lr",
        "1e-5,5e-6",
        "--lr",
        "1e-6",
        "--sweep",
        "train.seed=1,2",
    )
    written = jobspec(*args, "-o", "grid", cwd=place).stdout.split()
    assert len(written) == 6 and "grid/b-lr5e-6-seed2.json" in written
    found = jobspec("new", "--model", "a/b", "--lr", "1e-5,fast", cwd=place, code=2).stderr
    assert "'fast'; write 1e-5 or 1e-5,5e-6" in found


def test_new_refuses_what_is_certainly_wrong(place: Path) -> None:
    unknown = jobspec("new", "--model", "a/b", "--benchmarks", "amie25", cwd=place, code=1)
    assert "`amie25` is unknown" in unknown.stderr and "mean `aime25`?" in unknown.stderr
    (place / "bad.jsonl").write_text('{"messages": []}\n')
    bad = jobspec("new", "--model", "a/b", "--data", "bad.jsonl", cwd=place, code=1)
    assert "bad.jsonl, row 1: not a row of `messages`" in bad.stderr
    (place / "empty").mkdir()
    empty = jobspec("new", "--model", "./empty", cwd=place, code=1)
    assert "is no model directory: it has no config.json" in empty.stderr
    assert not (place / "specs").exists()


def test_new_writes_absolute_paths_and_remarks_on_a_missing_model(place: Path) -> None:
    done = jobspec(
        "new", "--model", "./tiny", "--source", "data/train.jsonl:2", "--set",
        "eval.benchmark_dir=own", cwd=place,
    )  # fmt: skip
    assert f"the model directory `{place}/tiny` does not exist on this machine" in done.stderr
    spec = parsing.load(place / done.stdout.strip())
    assert spec.data is not None and spec.eval is not None
    assert spec.model.name == f"{place}/tiny"
    assert [source.path for source in spec.data.sources] == [f"{place}/data/train.jsonl"]
    assert spec.eval.benchmark_dir == f"{place}/own"


def test_new_lowers_the_default_max_length_to_the_models_context(place: Path) -> None:
    (place / "tiny").mkdir()
    (place / "tiny/config.json").write_text('{"max_position_embeddings": 2048}')
    (place / "tiny/model.safetensors").touch()
    done = jobspec("new", "--model", "./tiny", cwd=place)
    assert "train.max_length is 2,048, the context of the model, instead of 8,192" in done.stderr
    spec = parsing.load(place / done.stdout.strip())
    assert spec.train is not None and spec.train.max_length == 2048
    chosen = new(place, "--model", "./tiny", "--set", "train.max_length=4096", "--name", "long")
    kept = parsing.load(chosen).train
    assert kept is not None and kept.max_length == 4096  # `enqueue` refuses it and says why


def test_short_names_are_the_commands_they_stand_for(place: Path) -> None:
    path = new(place, "--model", "a/b")
    assert jobspec("check", path, "--no-row-check", cwd=place).stdout == (
        jobspec("validate", path, "--no-row-check", cwd=place).stdout
    )
    assert "jobspec status" in jobspec("ls", "--help", cwd=place).stdout


def test_usage_errors_exit_2(place: Path) -> None:
    jobspec("new", "--model", "a/b", "--epochs", "many", cwd=place, code=2)
    jobspec("enqueue", cwd=place, code=2)
    assert "Did you mean `status`" in jobspec("staus", cwd=place, code=2).stderr


def test_validate_names_file_place_and_hint_of_every_bad_spec(place: Path) -> None:
    good = new(place, "--model", "a/b")
    for name, wrong in (("rate", {"learning_rate": -1}), ("typo", {"learning_rat": 1})):
        fields = json.loads(good.read_bytes())
        fields["train"] |= wrong
        (place / f"{name}.json").write_text(json.dumps(fields))
    done = jobspec("validate", UNCHECKED, good, "rate.json", "typo.json", cwd=place, code=1)
    assert "rate.json, $.train.learning_rate: " in done.stderr
    assert "typo.json, $.train: " in done.stderr
    assert "did you mean `learning_rate`?" in done.stderr
    assert "2 specs of 3 refused" in done.stderr


def test_a_refusal_in_json(place: Path) -> None:
    (place / "torn.json").write_text('{"name": ')
    (error,) = jobspec_json("validate", "torn.json", cwd=place, code=1)["errors"]
    assert error["file"] == "torn.json" and "not valid JSON" in error["message"] and error["hint"]
    (error,) = jobspec_json("validate", "none.json", cwd=place, code=1)["errors"]
    assert error["file"] == "none.json" and "can't be read" in error["message"] and error["hint"]


def test_a_line_that_is_no_row_is_refused_though_rows_are_not_rendered(place: Path) -> None:
    rows = place / "data/torn.jsonl"
    rows.write_text(ROW)
    spec = new(place, "--model", "a/b", "--data", "data/torn.jsonl")
    rows.write_text(ROW * 2 + '{"messages": [\n' + ROW)
    answer = jobspec_json("enqueue", UNCHECKED, spec, "--root", "r", cwd=place, code=1)
    (error,) = answer["errors"]
    assert (error["file"], error["place"]) == (str(place / "data/torn.jsonl"), "row 3")
    assert "messages" in error["hint"]
    assert Queue(place / "r").jobs() == []


def test_enqueue_prints_the_ids_and_publishes(place: Path) -> None:
    spec = new(place, "--model", "a/b")
    (job,) = jobspec("enqueue", UNCHECKED, spec, "--root", "r", cwd=place).stdout.splitlines()
    found = Queue(place / "r").job(job)
    assert found.spec.data is not None and found.spec.data.sha256 is not None
    assert found.spec.data.path == str(place / "data/train.jsonl")
    assert found.priority == 50


def test_enqueue_twice_is_one_job(place: Path) -> None:
    spec = new(place, "--model", "a/b")
    first = jobspec("enqueue", UNCHECKED, spec, "--root", "r", cwd=place)
    second = jobspec("enqueue", UNCHECKED, spec, "--root", "r", cwd=place)
    assert first.stdout == second.stdout
    assert "was enqueued before and is pending" in second.stderr
    assert len(Queue(place / "r").jobs()) == 1


def test_of_several_specs_all_are_enqueued_or_none(place: Path) -> None:
    good = new(place, "--model", "a/b")
    bad = new(place, "--model", "a/b", "--name", "bad", "--data", "none.jsonl")
    done = jobspec("enqueue", UNCHECKED, good, bad, "--root", "r", cwd=place, code=1)
    assert "bad.json, $.data.path" in done.stderr and done.stdout == ""
    assert Queue(place / "r").jobs() == []


def test_root_is_taken_before_and_after_the_command_and_from_the_environment(place: Path) -> None:
    spec = new(place, "--model", "a/b")
    for args, env in (
        (("--root", "one", "enqueue", spec), {}),
        (("enqueue", spec, "--root", "two"), {}),
        (("enqueue", spec), {"JOBSPEC_ROOT": "three"}),
        (("enqueue", spec), {}),
    ):
        jobspec(*args, UNCHECKED, cwd=place, **env)
    for root in ("one", "two", "three", "jobspec-root"):
        assert len(Queue(place / root).jobs()) == 1


def test_enqueue_without_the_worker_is_refused_and_says_how_to_go_on(place: Path) -> None:
    spec = new(place, "--model", "a/b")
    bare = f"{shlex.quote(sys.executable)} -I -S"
    done = jobspec("enqueue", spec, "--root", "r", cwd=place, code=1, JOBSPEC_WORKER_COMMAND=bare)
    assert "`worker` is missing" in done.stderr
    assert "--no-row-check" in done.stderr and "JOBSPEC_WORKER_COMMAND" in done.stderr
    assert Queue(place / "r").jobs() == []


def test_enqueue_into_a_root_of_another_layout(place: Path) -> None:
    spec = new(place, "--model", "a/b")
    jobspec("enqueue", UNCHECKED, spec, "--root", "r", cwd=place)
    (place / "r/FORMAT").write_text('{"layout": 99}')
    done = jobspec("enqueue", UNCHECKED, spec, "--root", "r", cwd=place, code=1)
    assert "layout `99`" in done.stderr and "hint: " in done.stderr


def test_enqueue_where_no_root_can_be(place: Path) -> None:
    spec = new(place, "--model", "a/b")
    (place / "file").touch()
    done = jobspec("enqueue", UNCHECKED, spec, "--root", "file/r", cwd=place, code=1)
    assert "file/r" in done.stderr and "hint: " in done.stderr


def test_schema_is_a_json_schema_of_specs() -> None:
    found = json.loads(jobspec("schema").stdout)
    assert "TrainSpec" in json.dumps(found)
    assert found == json.loads(json.dumps(parsing.json_schema()))


def test_every_command_helps_with_an_example() -> None:
    from jobspec.cli import COMMANDS, cli

    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None and f"jobspec {name}" in (command.help or ""), name


def test_the_repository_runs_as_a_module() -> None:
    assert (REPOSITORY / "jobspec/cli/__main__.py").exists()
    assert "Usage: jobspec" in jobspec("--help").stdout


def test_all_errors_of_a_spec_are_reported_at_once(place: Path) -> None:
    spec = new(place, "--model", "a/b")
    fields = json.loads(spec.read_bytes())
    fields["model"]["name"] = 5
    fields["train"]["learning_rate"] = -1
    fields["train"]["num_train_epoch"] = fields["train"].pop("num_train_epochs")
    fields["eval"]["temperature"] = "hot"
    fields["eval"]["benchmarks"] = ["aime24", "no_such_benchmark"]
    fields["data"]["path"] = "none.jsonl"
    spec.write_text(json.dumps(fields))
    done = jobspec("validate", UNCHECKED, spec, cwd=place, code=1)
    shown = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    places = [line.split(", ", 1)[1].split(": ")[0] for line in shown]
    assert places == [
        "$.model.name", "$.train.learning_rate", "$.train", "$.eval.temperature",
        "$.eval.benchmarks[1]", "$.data.path",
    ]  # fmt: skip
    assert "did you mean `num_train_epochs`?" in done.stderr
    told = jobspec_json("validate", UNCHECKED, spec, cwd=place, code=1)["errors"]
    assert [error["place"] for error in told] == places


def test_rules_and_checks_that_do_not_depend_on_each_other_are_all_reported(place: Path) -> None:
    spec = new(place, "--model", str(place / "no-model"))
    fields = json.loads(spec.read_bytes())
    fields["train"] |= {"offload": "optimizer", "zero_stage": 0, "global_batch_size": 3}
    spec.write_text(json.dumps(fields))
    told = jobspec_json("validate", UNCHECKED, spec, cwd=place, code=1)["errors"]
    assert "$.train.offload" in [error["place"] for error in told] and len(told) >= 1
    fields["train"] |= {"offload": "none", "zero_stage": 2, "global_batch_size": 32}
    fields["eval"]["benchmarks"] = ["no_such_benchmark"]
    spec.write_text(json.dumps(fields))
    told = jobspec_json("validate", UNCHECKED, spec, cwd=place, code=1)["errors"]
    assert {"$.model.name", "$.eval.benchmarks[0]"} <= {error["place"] for error in told}


def test_validate_for_a_device_needs_no_copy_of_a_known_model(place: Path) -> None:
    spec = new(place, "--model", "Qwen/Qwen3-4B")
    done = jobspec("validate", spec, "--device", "h100-94", "--root", "r", cwd=place)
    assert "training needs" in done.stderr and "rows are not rendered" in done.stderr
    assert "$.model.name" in jobspec("validate", spec, "--root", "r", cwd=place, code=1).stderr
