"""`jobspec replay`: the same job here, what is different here, and what came out differently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.bundle import read_bundle, replay
from jobspec.errors import JobspecError, TransitionRefused
from jobspec.queue.queue import Queue
from jobspec.spec import identity, parsing
from tests.support.bundles import DEMO, edit, job_of, unpack
from tests.support.commands import jobspec, jobspec_json
from tests.support.queues import enqueue_and_claim
from tests.support.specs import base_spec

HERE = ("model.name=org/m", "data.path=/rows.jsonl", "eval.benchmark_dir=/questions")


def test_the_places_give_the_spec_its_id_again(tmp_path: Path) -> None:
    bundle = unpack(tmp_path)
    with read_bundle.opened(bundle.dir) as found:
        spec = replay.spec_of(found, HERE)
    original = identity.job_id(spec.name, identity.canonical(spec))
    edit(bundle, "bundle.json", lambda value: value.update(job=original))
    with read_bundle.opened(bundle.dir) as found:
        again = replay.spec_of(found, HERE)
        assert identity.job_id(again.name, identity.canonical(again)) == found.about.job
        other = replay.spec_of(found, (*HERE, "data.path=/elsewhere.jsonl"))
        assert identity.job_id(other.name, identity.canonical(other)) != found.about.job


@pytest.mark.parametrize("left_out", range(3))
def test_a_hidden_place_has_to_be_given(left_out: int) -> None:
    given = [setting for number, setting in enumerate(HERE) if number != left_out]
    field = HERE[left_out].split("=")[0]
    named = pytest.raises(JobspecError, match="another machine")
    with read_bundle.opened(DEMO) as found, named as refused:
        replay.spec_of(found, given)
    assert refused.value.place == f"$.{field}" and f"--set {field}=" in str(refused.value.hint)


def test_the_code_of_a_strangers_model_is_not_run_unasked(tmp_path: Path) -> None:
    bundle = unpack(tmp_path)
    edit(bundle, "spec.json", lambda spec: spec["model"].update(trust_remote_code=True))
    with read_bundle.opened(bundle.dir) as found:
        with pytest.raises(JobspecError, match="runs the model's own code"):
            replay.spec_of(found, HERE)
        asked = replay.spec_of(found, (*HERE, "model.trust_remote_code=true"))
    assert asked.model.trust_remote_code


def test_other_packages_and_code_are_listed(tmp_path: Path) -> None:
    bundle = unpack(tmp_path)
    edit(bundle, "attempts/1/manifest.json", lambda v: v["packages"].update(torch="1.0", gone="3"))
    with read_bundle.opened(bundle.dir) as found:
        listed = {each.what: each for each in replay.environment_here(found)}
    assert listed["torch"].bundle == "1.0" and listed["torch"].here not in (None, "1.0")
    assert (listed["gone"].bundle, listed["gone"].here) == ("3", None)
    assert listed["commit"].bundle != listed["commit"].here
    assert listed["device"].bundle == "2 × AMD EPYC"
    assert "msgspec" not in listed, "the same version"


def test_a_job_is_enqueued_that_only_scores(tmp_path: Path) -> None:
    """Without training, so that no rows have to be there."""
    bundle = unpack(tmp_path / "given")

    def only_scored(spec: dict[str, object]) -> None:
        spec.update(train=None, data=None, model={"name": "org/m"}, name="scored")
        spec["eval"] = {"benchmarks": ["aime24"]}

    edit(bundle, "spec.json", only_scored)
    spec = parsing.load(bundle.spec)
    own = identity.job_id(spec.name, identity.canonical(spec))
    edit(bundle, "bundle.json", lambda value: value.update(job=own))
    root = tmp_path / "root"
    found = jobspec_json("replay", bundle.dir, "--create", "--root", root)
    assert found["job"] == own and found["same_id"] and found["state"] == "pending"
    assert {"what": "device", "bundle": "2 × AMD EPYC", "here": None} in found["environment"]
    again = jobspec("replay", bundle.dir, "--set", "eval.avg_k=2", "--root", root)
    assert f"the bundle's job is {own}" in again.stderr and again.stdout.strip() != own


def test_the_same_results_are_the_same(queue: Queue, tmp_path: Path) -> None:
    job = job_of(unpack(tmp_path / "given"), queue)
    found = jobspec_json("replay", DEMO, "--compare", job.id, "--root", queue.paths.root)
    said = {each["check"]: each for each in found["findings"]}
    assert said["losses"]["detail"] == "identical in all 190 steps"
    assert said["samples"]["detail"] == "`aime_demo`: 104 of 104 samples are identical"
    assert said["scores"]["outcome"] == "ok"
    assert said["weights"]["outcome"] == "differs"  # the job's directory has none


def test_other_results_are_named(queue: Queue, tmp_path: Path) -> None:
    bundle = unpack(tmp_path / "given")
    path = bundle.attempt(1).metrics
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    (step,) = (row for row in rows if row.get("step") == 7 and "loss" in row)
    step["loss"] += 0.25
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = bundle.attempt(1).done("eval")
    score = json.loads(report.read_text())
    score["metrics"]["bench/aime_demo/avg_at_4"] = 0.9
    report.write_text(json.dumps(score))
    job = job_of(bundle, queue)
    done = jobspec("replay", DEMO, "--compare", job.id, "--root", queue.paths.root, code=1)
    assert "1 of 190 steps differ, the first is 7; the largest difference is 0.25" in done.stdout
    assert "avg_at_4 0.0 there, 0.9 here, outside of" in done.stdout


def test_a_job_that_runs_is_not_compared(queue: Queue) -> None:
    claim = enqueue_and_claim(queue, base_spec())
    with read_bundle.opened(DEMO) as found, pytest.raises(TransitionRefused, match="is running"):
        list(replay.compare(found, queue.job(claim.job)))
