"""`jobspec export`: the model card, read by huggingface_hub as the Hub reads it."""

from __future__ import annotations

import getpass
import re
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from huggingface_hub import ModelCard

from jobspec.errors import JobspecError
from jobspec.maintenance import model_card
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import Result
from jobspec.records.base import Reason
from jobspec.records.manifest import CodeVersion, Manifest, UsedDevices
from jobspec.records.reports import Overlap, PrepareReport, ScoringProtocol, TrainReport
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from tests.support.commands import jobspec, jobspec_json
from tests.support.queues import ended, enqueue_and_claim, fail, scores
from tests.support.specs import base_spec, job_spec

COMMIT = "12577e553c2923d28e25adc23379f0c0c6351ab2"
MANIFEST = Manifest(
    worker="gpu012-4711-3-0123456789abcdef",
    host="gpu012",
    python="3.11.7",
    kernel="6.1-secret-site",
    packages={"torch": "2.13.0", "transformers": "5.19.0"},
    code=CodeVersion(commit=COMMIT, dirty=False),
    image="/home/ada/images/worker.sif",
    device=UsedDevices(kind="cuda", name="NVIDIA H100", count=4),
)
PREPARE = PrepareReport(
    rows_in=100,
    rows_train=90,
    rows_eval=5,
    dropped={"over_long": 5},
    data_sha256="d" * 64,
    template_sha256="e" * 64,
    tokenizer_sha256="f" * 64,
    overlap={"aime24": Overlap(questions=30, judged=30, questions_found=2, rows_found=3)},
)
TRAIN = TrainReport(
    loss_first=2.0, loss=0.25, eval_loss_first=2.5, eval_loss=0.5, steps=40, tokens=9000
)


def trained_spec(place: Path, model: str | Path = "Qwen/Qwen3-8B", **changes: Any) -> JobSpec:
    return job_spec(
        model,
        name="qwen3-lr2e-5",
        notes="for ada@uni.edu, see /home/ada/notes",
        data__path=place / "traces.jsonl",
        data__sha256="a" * 64,
        train={"learning_rate": 2e-5, "lora": {"r": 8}},
        tracking={"entity": "ada-lovelace", "project": "secret-project"},
        eval={"benchmarks": ["aime24"], "benchmark_dir": place / "benchmarks"},
        **changes,
    )


def finish(queue: Queue, spec: JobSpec) -> Job:
    claim = enqueue_and_claim(queue, spec)
    claim.dir.final_model.mkdir()
    (claim.dir.final_model / "model.safetensors").write_bytes(bytes(100))
    claim.dir.manifest.write_bytes(records.encode(MANIFEST))
    claim.end(ended(Reason.SUCCEEDED))
    protocol = ScoringProtocol(k=32, questions=30, protocol="published", temperature=0.6)
    result = Result(
        job=claim.job, attempt=1, metrics=scores(0.95, 0.75), train=TRAIN, prepare=PREPARE,
        protocol={"aime24": protocol},
    )  # fmt: skip
    claim.finish("succeeded", result)
    return queue.job(claim.job)


@pytest.fixture
def job(queue: Queue, tmp_path: Path) -> Job:
    return finish(queue, trained_spec(tmp_path))


def export(queue: Queue, *args: str | Path, code: int = 0) -> str:
    done = jobspec("export", "qwen3", *args, "--root", queue.paths.root, code=code)
    return done.stdout + done.stderr


def read_card(job: Job) -> str:
    return (job.paths.final_model / "README.md").read_text()


def test_the_hub_reads_the_card(queue: Queue, job: Job) -> None:
    export(queue)
    card = ModelCard.load(job.paths.final_model / "README.md")
    data = card.data
    assert (data.base_model, data.library_name) == ("Qwen/Qwen3-8B", "transformers")
    assert set(data.tags) == {"jobspec", "sft", "lora"} and data.license is None
    found = {each.dataset_type: each for each in data.eval_results}
    assert found["aime24"].metric_type == "avg_at_32" and found["aime24"].metric_value == 0.75
    low, high = found["aime24"].metric_args["interval_95"]
    assert low < 0.75 < high
    assert found["minerva_math500"].metric_value == 0.95
    assert ModelCard(str(card)).data.to_dict() == data.to_dict()


def test_the_card_has_what_a_reader_asks(queue: Queue, job: Job) -> None:
    export(queue)
    text = read_card(job)
    assert "| aime24 | avg@32 0.750 | 0.6" in text and "temperature 0.6" in text
    assert "- final training loss: 0.2500 (at first 2.0000)" in text
    assert "- final held-out loss: 0.5000 (at first 2.5000)" in text
    assert "| `learning_rate` | 2e-5 |" in text and "| `lora.r` | 8 |" in text
    assert f"| `traces.jsonl` | `{'a' * 64}` |" in text and "- aime24: 2 of 30" in text
    assert f"jobspec at commit `{COMMIT}`" in text and "torch 2.13.0" in text
    assert "4 × NVIDIA H100" in text and "jobspec enqueue spec.json" in text


def test_the_spec_in_the_card_is_the_experiment(queue: Queue, job: Job) -> None:
    export(queue)
    (text,) = re.findall(r"```json\n(.*?)```", read_card(job), re.DOTALL)
    found, spec = parsing.decode(text.encode()), job.spec
    assert found.train == spec.train and found.model == spec.model and found.eval is not None
    assert msgspec.structs.replace(found.eval, benchmark_dir=None) == msgspec.structs.replace(
        spec.eval, benchmark_dir=None
    ), "also `</think>` is as it was"
    assert found.data is not None and spec.data is not None
    assert found.data.sha256 == spec.data.sha256 and found.data.path == "traces.jsonl"


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "/home/ada/models/mine", "~ada/models/mine"])
def test_the_card_names_nobody_and_no_place(queue: Queue, tmp_path: Path, model: str) -> None:
    changes = {"model__chat_template": "/home/ada/t.jinja", "model__revision": COMMIT}
    job = finish(queue, trained_spec(Path("/home/ada/data"), model, **changes))
    export(queue)
    text = read_card(job)
    private = {
        *("ada", "gpu012", "4711", "lovelace", "secret", "@uni", "/home", "worker.sif"),
        *(str(tmp_path), str(queue.paths.root), socket.gethostname(), getpass.getuser()),
    }
    for word in private:
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is None, word
    assert re.search(r"(?<![\w.:/<])/\w", text) is None, "no absolute path"
    assert COMMIT in text


def test_a_secret_in_what_a_job_ran_with_is_replaced(queue: Queue, job: Job) -> None:
    token = "hf_" + "a" * 34
    found = msgspec.structs.replace(MANIFEST, packages={"torch": f"2.13+{token}"})
    job.paths.attempt(1).manifest.write_bytes(records.encode(found))
    export(queue)
    assert token not in read_card(job) and "<a Hugging Face token>" in read_card(job)


def test_exporting_again_changes_nothing(queue: Queue, job: Job) -> None:
    assert "written" in export(queue)
    before = (job.paths.final_model / "README.md").stat()
    found = jobspec_json("export", "qwen3", "--root", queue.paths.root)
    assert found["already"] is True and found["job"] == job.id
    after = (job.paths.final_model / "README.md").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert {path.name for path in job.paths.final_model.iterdir()} == {
        "README.md", "model.safetensors",
    }  # fmt: skip


def test_an_edited_card_is_kept_unless_forced(queue: Queue, job: Job, tmp_path: Path) -> None:
    export(queue)
    card = job.paths.final_model / "README.md"
    fs.publish(card, b"mine")
    said = export(queue, code=1)
    assert "another README.md" in said and "--force" in said and card.read_bytes() == b"mine"
    export(queue, "--output", tmp_path / "new" / "place")
    written = (tmp_path / "new" / "place" / "README.md").read_text()
    assert card.read_bytes() == b"mine"
    export(queue, "--force")
    assert read_card(job) == written


def test_a_job_without_a_model_is_refused(queue: Queue, tmp_path: Path) -> None:
    fail(queue, trained_spec(tmp_path), "row 17")
    said = export(queue, code=1)
    assert "has no final model: it is failed" in said and "hint: " in said
    claim = enqueue_and_claim(queue, base_spec(name="only-scores"))
    claim.end(ended(Reason.SUCCEEDED))
    claim.finish("succeeded", Result(job=claim.job, attempt=1, metrics={}))
    with pytest.raises(JobspecError, match="only scores a model"):
        model_card.render(queue.job("only-scores"))


@pytest.mark.parametrize(
    ("files", "license"),
    [
        ({"README.md": "---\nlicense: llama3\ntags: [a]\n---\n"}, "llama3"),
        (
            {"README.md": "no license", "LICENSE": " Apache License\n  Version 2.0"},
            "apache-2.0",
        ),
        ({"LICENSE": "MIT License\n"}, "mit"),
        ({"LICENSE": "all rights reserved"}, None),
    ],
)
def test_the_license_is_the_base_models(
    queue: Queue, tmp_path: Path, files: dict[str, str], license: str | None
) -> None:
    model = tmp_path / "hub" / "models--some--base" / "snapshots" / "1"
    model.mkdir(parents=True)
    for name, text in files.items():
        (model / name).write_text(text)
    job = finish(queue, trained_spec(tmp_path, model))
    export(queue)
    data = ModelCard.load(job.paths.final_model / "README.md").data
    assert data.license == license
    assert data.base_model == "some/base", "a snapshot's directory names its repository"


def test_a_data_file_of_the_hub_is_named(queue: Queue, tmp_path: Path) -> None:
    place = tmp_path / "datasets--org--traces" / "snapshots" / "1"
    job = finish(queue, trained_spec(place))
    export(queue)
    assert ModelCard.load(job.paths.final_model / "README.md").data.datasets == ["org/traces"]
