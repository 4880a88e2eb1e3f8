"""A spec's id never changes: not with a new field, a new group or another default."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobspec.spec import identity, parsing
from tests.support.paths import REPOSITORY

RECORDED = REPOSITORY / "tests/data/specs-0.1"
# Recorded with the first release. No change to the project may alter one of them.
FILE_IDS = {
    "olmo-3-7b-instruct-lr1e-5.json": "olmo-3-7b-instruct-lr1e-5-96677575bc",
    "olmo-3-7b-think-lr1e-5.json": "olmo-3-7b-think-lr1e-5-354c0569a4",
    "qwen3-8b-lr1e-5.json": "qwen3-8b-lr1e-5-244efceb67",
    "qwen3-8b-lr5e-6.json": "qwen3-8b-lr5e-6-aeba8a1b50",
    "smoke.json": "smoke-5e9aca57a3",
}
OTHER_IDS = {
    "a-c7cb2c2bf1": '{"name":"a","model":{"name":"m"},"train":null}',
    "b-95a348edce": (
        '{"name":"b","model":{"name":"m"},"data":{"path":"/d"},'
        '"train":{"sequence_parallel":2,"lora":{}},"eval":null}'
    ),
    "c-80f9f52c32": (
        '{"name":"c","model":{"name":"m"},"train":null,"notes":"é",'
        '"eval":{"benchmarks":["aime24"],"overrides":{"aime24":{"avg_k":4}},'
        '"chat_template_kwargs":{"b":1,"a":true}}}'
    ),
}

# What is run with a changed schema: the ids and bytes of the recorded specs, and a new spec.
REPORT = """
import json, sys
from pathlib import Path
from jobspec.spec import builder, identity, parsing
old = [parsing.load(path) for path in sys.argv[1:]]
(new,) = builder.build(builder.Request(models=["m"], settings=SETTINGS))
print(json.dumps({
    "ids": [identity.job_id(spec.name, identity.canonical(spec)) for spec in old],
    "packing": [spec.train and spec.train.packing for spec in old],
    "new": json.loads(identity.canonical(new)),
    "unchanged_by_reading": parsing.decode(identity.canonical(new)) == new,
}))
"""


def job_id(data: bytes) -> str:
    spec = parsing.decode(data)
    return identity.job_id(spec.name, identity.canonical(spec))


@pytest.mark.parametrize("name", FILE_IDS)
def test_ids_of_the_spec_files_stay_the_same(name: str) -> None:
    assert job_id((RECORDED / name).read_bytes()) == FILE_IDS[name]


@pytest.mark.parametrize("expected", OTHER_IDS)
def test_ids_of_partly_written_specs_stay_the_same(expected: str) -> None:
    assert job_id(OTHER_IDS[expected].encode()) == expected


def test_a_later_field_is_left_out_of_the_bytes_at_its_default_only() -> None:
    file = RECORDED / "smoke.json"
    written = json.loads(file.read_bytes())
    assert "sequence_parallel" not in written["train"]
    written["train"]["sequence_parallel"] = 1
    assert identity.canonical(parsing.decode(json.dumps(written).encode())) == file.read_bytes()
    written["train"]["sequence_parallel"] = 2
    other = parsing.decode(json.dumps(written).encode())
    assert b'"sequence_parallel": 2' in identity.canonical(other)
    assert parsing.decode(identity.canonical(other)) == other


@pytest.fixture
def report_with(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs `REPORT` in a copy of the package whose schema was edited: what it printed."""
    copy = tmp_path / "jobspec"
    shutil.copytree(REPOSITORY / "jobspec", copy, ignore=shutil.ignore_patterns("__pycache__"))
    files = [RECORDED / name for name in FILE_IDS]
    for number, text in enumerate(OTHER_IDS.values()):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(text)

    def run(edits: dict[str, str], settings: tuple[str, ...] = ()) -> dict[str, Any]:
        schema = copy / "spec/schema.py"
        for old, new in edits.items():
            assert schema.read_text().count(old) == 1
            schema.write_text(schema.read_text().replace(old, new))
        done = subprocess.run(
            [sys.executable, "-c", REPORT.replace("SETTINGS", repr(settings)), *map(str, files)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


PACKING = '    packing: Annotated[bool | Literal["auto"], NewDefault("auto")] = False\n'
RESOURCES = "    resources: ResourcesSpec = ResourcesSpec()\n"
ALL_IDS = [*FILE_IDS.values(), *OTHER_IDS]


def test_a_field_added_in_one_line_changes_no_id(report_with: Callable[..., Any]) -> None:
    added = {PACKING: PACKING + "    pack_to: Annotated[Count | None, ADDED_LATER] = None\n"}
    found = report_with(added)
    assert found["ids"] == ALL_IDS
    assert "pack_to" not in found["new"]["train"]

    found = report_with({}, ("train.pack_to=512",))
    assert found["new"]["train"]["pack_to"] == 512 and found["unchanged_by_reading"]


def test_a_group_added_in_one_line_changes_no_id(report_with: Callable[..., Any]) -> None:
    group = "class RewardSpec(Spec, frozen=True, kw_only=True):\n    scale: float = 1.0\n\n\n"
    added = {
        "class JobSpec(": group + "class JobSpec(",
        RESOURCES: RESOURCES + "    reward: Annotated[RewardSpec, ADDED_LATER] = RewardSpec()\n",
    }
    found = report_with(added)
    assert found["ids"] == ALL_IDS
    assert "reward" not in found["new"]

    found = report_with({}, ("reward.scale=0.5",))
    assert found["new"]["reward"] == {"scale": 0.5} and found["unchanged_by_reading"]


def test_another_default_changes_new_specs_and_no_old_one(report_with: Callable[..., Any]) -> None:
    found = report_with({}, ("train.seed=7",))
    assert found["ids"] == ALL_IDS
    assert not any(found["packing"])
    assert found["new"]["train"]["packing"] == "auto" and found["unchanged_by_reading"]

    asked = report_with({}, ("train.packing=false",))
    assert asked["new"]["train"]["packing"] is False


def test_a_later_field_may_get_another_default_too(report_with: Callable[..., Any]) -> None:
    marked = "sequence_parallel: Annotated[int, Meta(ge=1, le=1024), ADDED_LATER"
    found = report_with({marked: marked + ", NewDefault(2)"})
    assert found["ids"] == ALL_IDS
    assert found["new"]["train"]["sequence_parallel"] == 2

    asked = report_with({}, ("train.sequence_parallel=1",))
    assert "sequence_parallel" not in asked["new"]["train"]


def test_a_new_default_is_not_written_into_a_group_that_is_null(
    report_with: Callable[..., Any],
) -> None:
    edits = {
        "    r: Annotated[int, Meta(ge=1, le=4096)] = 16\n": (
            "    r: Annotated[int, Meta(ge=1, le=4096), NewDefault(8)] = 16\n"
        ),
    }
    assert report_with(edits, ("train=null",))["new"]["train"] is None
    assert report_with({})["new"]["train"]["lora"] is None
    assert report_with({}, ("train.lora.alpha=4",))["new"]["train"]["lora"]["r"] == 8
