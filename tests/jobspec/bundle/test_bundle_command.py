"""`jobspec bundle`: what is written, and that nothing in it identifies anyone."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from jobspec.bundle import write_bundle
from jobspec.errors import JobspecError, TransitionRefused
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.storage.layout import BundlePaths
from tests.support.bundles import BENCHMARK, job_of, unpack
from tests.support.commands import jobspec, jobspec_json, run_checked
from tests.support.specs import base_spec

USER, HOST, ROOT_NAME = "plantuser", "planthost7", "plantroot"
NODE = "plantnode8"  # another node of a training on several
SECRETS = ("hf_" + "A" * 34, "sk-" + "b" * 24, "c0ffee" * 6 + "c0ff", "wandb_v1_" + "d" * 24)
ADDRESS = "10.11.12.13"


@pytest.fixture
def job(queue: Queue, tmp_path: Path) -> Job:
    return job_of(unpack(tmp_path / "given"), queue)


def all_bytes(written: write_bundle.WrittenBundle) -> bytes:
    """Names and contents of every file, also those in the tar."""
    files = sorted(Path(written.directory).rglob("*"))
    parts = [path.read_bytes() for path in files if path.is_file()]
    names = [os.fsencode(path.relative_to(written.directory)) for path in files]
    return b"\n".join([*names, *parts, gzip.decompress(Path(written.tar).read_bytes())])


def test_the_sums_can_be_checked_with_sha256sum(job: Job, queue: Queue, tmp_path: Path) -> None:
    found = jobspec_json("bundle", job.id, "-o", tmp_path / "out", "--root", queue.paths.root)
    directory = Path(found["bundle"]["directory"])
    checked = ["sha256sum", "--check", "--strict", "--quiet", BundlePaths.SUMS]
    run_checked(checked, cwd=directory)
    names = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    listed = {line[66:] for line in BundlePaths(directory).sums.read_text().splitlines()}
    assert names == listed | {BundlePaths.SUMS}
    expected = {"spec.json", "attempts/1/manifest.json", "attempts/1/metrics.jsonl"}
    expected |= {"attempts/1/eval.json", "attempts/1/train.log", f"{BENCHMARK}/scores.jsonl"}
    expected |= {f"{BENCHMARK}/questions.jsonl", f"{BENCHMARK}/generations-00001.jsonl"}
    assert expected < names
    assert found["bundle"]["files"] == len(names)
    run_checked(["tar", "xzf", found["bundle"]["tar"]], cwd=tmp_path)
    run_checked(checked, cwd=tmp_path / directory.name)


def test_the_same_job_gives_the_same_bytes(job: Job, tmp_path: Path) -> None:
    one, two = (write_bundle.write(job, tmp_path / name) for name in ("one", "two"))
    assert Path(one.tar).read_bytes() == Path(two.tar).read_bytes()
    assert one.fingerprint == two.fingerprint


def test_a_trained_model_brings_its_card(job: Job, tmp_path: Path) -> None:
    job.paths.final_model.mkdir(parents=True, exist_ok=True)
    written = write_bundle.write(job, tmp_path / "out")
    card = BundlePaths(Path(written.directory)).model_card.read_text()
    assert card.startswith("---\n") and f"# {job.spec.name}" in card
    verified = jobspec("verify", written.directory)
    assert "ok       hashes" in verified.stdout


def test_nothing_that_was_planted_is_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user, a host, an address, paths and secrets in every file that a job has."""
    home = tmp_path / "home" / USER
    monkeypatch.setenv("USER", USER)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PLANTED_PASSWORD", "tr0ub4dor&3-staple")
    root = tmp_path / ROOT_NAME
    queue = Queue.create(root)
    job = job_of(unpack(tmp_path / "given"), queue)
    planted = [USER, f"{USER}@{HOST}", HOST, HOST.upper(), ADDRESS, "tr0ub4dor&3-staple", *SECRETS]
    planted += [f"{root}/jobs/x", f"{home}/data.jsonl", f"/scratch/{USER}/secret place/x"]
    plant(job, " ".join(planted), planted)
    job.paths.final_model.mkdir(parents=True, exist_ok=True)  # so that there is a model card
    written = write_bundle.write(job, tmp_path / "out")
    found = all_bytes(written).lower()
    for text in (USER, HOST, NODE, ROOT_NAME, "tr0ub4dor", "/home/", *SECRETS):
        at = found.find(text.lower().encode())
        assert at < 0, f"{text} in {found[max(0, at - 200) : at + 100]!r}"
    for path in Path(written.directory).rglob("*.*"):
        is_sample = "eval" in path.parts  # whose paths are answers, except those of this machine
        content = path.read_text() if path.is_file() and not is_sample else ""
        assert "/scratch" not in content and ADDRESS not in content, path
    for name in written.replaced:
        assert name.encode() in found
    own = {p.relative_to(written.directory).as_posix() for p in Path(written.directory).rglob("*")}
    replaced = json.loads(BundlePaths(Path(written.directory)).about.read_text())["replaced"]
    assert set(replaced) == {name for name in own if name.endswith((".json", ".jsonl", ".log"))} - {
        "bundle.json",
        "ro-crate-metadata.json",
    }, "every file was planted in"


def plant(job: Job, text: str, planted: list[str]) -> None:
    """Write `text` into every file of a job, in a place where its kind of file has text."""
    for path in job.paths.dir.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        if path.suffix == ".log":
            path.write_text(path.read_text() + text + "\n")
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                strings = [key for key, value in line.items() if isinstance(value, str)]
                key = next((k for k in ("text", "prompt", "message") if k in strings), None)
                line[key or "planted"] = f"{line.get(key or '', '')} {text}"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        elif path.suffix == ".json" and path != job.paths.spec:
            value = json.loads(path.read_text())
            value |= {"planted": planted, "host": HOST, text: 1}
            path.write_text(json.dumps(value))
    attempt = job.paths.attempt(1)
    rows = [json.loads(line) for line in attempt.metrics.read_text().splitlines()]
    rows[0]["slowest_host"] = NODE
    attempt.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with attempt.log("train").open("a") as file:
        file.write(f"{NODE} became slow\n")
    with_spec = json.loads(job.paths.spec.read_text()) | {"notes": text}
    job.paths.spec.chmod(0o644)  # it is read-only
    job.paths.spec.write_text(json.dumps(with_spec))


def test_where_an_answer_begins_moves_with_what_is_replaced(job: Job, tmp_path: Path) -> None:
    path = job.paths.attempt(1).eval / "aime_demo" / "generations-00000.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    before = f"<think>{job.root.root}/x</think>"
    rows[0] |= {"text": before + "The answer.", "answer_start": len(before)}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = write_bundle.write(job, tmp_path / "out")
    copy = Path(written.directory) / BENCHMARK / path.name
    row = json.loads(copy.read_text().splitlines()[0])
    assert row["text"] == "<think><root>/x</think>The answer."
    assert row["text"][row["answer_start"] :] == "The answer."


def test_weights_are_named_by_hash_or_included(job: Job, tmp_path: Path) -> None:
    model = job.paths.attempt(1).final_model
    model.mkdir()
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (model / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + b"\0\0\x80?"
    )
    (model / "config.json").write_text('{"_name_or_path": "/scratch/models/base"}')
    (model / "training_args.bin").write_bytes(b"a pickle")
    named = write_bundle.write(job, tmp_path / "named")
    assert not list(Path(named.directory).rglob("*.safetensors"))
    about = json.loads(BundlePaths(Path(named.directory)).about.read_text())
    (weights,) = about["weights"]
    assert weights["path"] == "attempts/1/final_model/model.safetensors"
    assert "weights" in about["omitted"] and not about["weights_included"]
    full = write_bundle.write(job, tmp_path / "full", weights=True)
    copies = {path.name for path in (Path(full.directory) / "attempts/1/final_model").iterdir()}
    assert copies == {"model.safetensors", "config.json"}, "no pickle"
    assert b"scratch" not in all_bytes(full)
    with_path = header.replace(b"{", b'{"__metadata__":{"from":"/scratch/models/x"},', 1)
    (model / "model.safetensors").write_bytes(
        len(with_path).to_bytes(8, "little") + with_path + b"\0\0\x80?"
    )
    with pytest.raises(JobspecError, match=r"model\.safetensors: its metadata holds a name"):
        write_bundle.write(job, tmp_path / "refused", weights=True)
    assert list((tmp_path / "refused").iterdir()) == [], "nothing is left"


def test_a_job_that_has_not_ended_and_an_existing_bundle_are_refused(
    job: Job, queue: Queue, tmp_path: Path
) -> None:
    write_bundle.write(job, tmp_path / "out")
    with pytest.raises(JobspecError, match="exists"):
        write_bundle.write(job, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    waiting = queue.enqueue(base_spec())
    with pytest.raises(TransitionRefused, match="is pending"):
        write_bundle.write(waiting, tmp_path / "out")
    refused = jobspec("bundle", "no-such-job", "--root", queue.paths.root, code=1)
    assert "no-such-job" in refused.stderr
