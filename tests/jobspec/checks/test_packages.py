"""What `validate` and `enqueue` say of a spec whose optimizer or precision needs torchao."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from jobspec.errors import SpecError
from tests.support.checks import checked, refusal
from tests.support.specs import train_spec
from worker import phases
from worker.host import torchao_package

EIGHT = "train.optim=adamw_8bit"
# A child that does or does not find a package of that name.
_CHILD = """\
import importlib.util, runpy
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: {found} if name == "torchao" else found(name, *rest)
runpy.run_module("worker.host.torchao_package", run_name="__main__")
"""


def workers_python(place: Path, monkeypatch: pytest.MonkeyPatch, *, found: str) -> None:
    script = place / "worker-python"
    code = shlex.quote(_CHILD.format(found=found))
    script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {code}\n")
    script.chmod(0o755)
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", str(script))


def about_torchao(*settings: str) -> list[str]:
    return [warning for warning in checked(*settings).warnings if "torchao" in warning]


@pytest.mark.parametrize("setting", [EIGHT, "train.precision=float8"])
def test_without_torchao_it_is_refused_with_the_command(
    setting: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers_python(place, monkeypatch, found="None")
    error = refusal(setting)
    name, _, value = setting.partition("=")
    assert (error.file, error.place) == ("specs/s.json", f"$.{name}")
    assert error.message.startswith(f"`{value}` needs the package `torchao`, which is not")
    assert error.hint is not None and "pip install 'jobspec[gpu]'" in error.hint
    assert about_torchao() == []


def test_with_torchao_there_is_no_warning(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers_python(place, monkeypatch, found="1")
    assert about_torchao(EIGHT) == []


def test_without_the_workers_packages_it_is_a_warning(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", "/no/such/python")
    assert len(checked(EIGHT).warnings) == len(checked().warnings) + 1
    assert any("`/no/such/python` can't be run" in each for each in checked(EIGHT).warnings)


@pytest.mark.parametrize("other", ["train.zero_stage=3", "train.offload=optimizer"])
def test_it_needs_the_flat_weights_of_zero_2(place: Path, other: str) -> None:
    error = refusal(EIGHT, other)
    assert error.place == "$.train.optim"
    assert error.message == "`adamw_8bit` needs the flat weights of ZeRO-2 on the device"


def refuse_as_worker(train: dict[str, str], *, on_gpu: bool) -> None:
    spec = train_spec("m", train=train)
    phase = next(each for each in phases.of(spec) if each.info.name == "train")
    phase.check(spec, on_gpu)


@pytest.mark.parametrize("train", [{"optim": "adamw_8bit"}, {"precision": "float8"}])
def test_a_worker_without_torchao_refuses_the_job(
    train: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchao_package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match="needs the package `torchao`"):
        refuse_as_worker(train, on_gpu=True)


def test_a_worker_without_a_gpu_refuses_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchao_package.importlib.util, "find_spec", lambda name: object())
    float8 = {"precision": "float8"}
    with pytest.raises(SpecError, match="needs a GPU of NVIDIA's Hopper") as caught:
        refuse_as_worker(float8, on_gpu=False)
    assert caught.value.place == "$.train.precision"
    refuse_as_worker(float8, on_gpu=True)
    refuse_as_worker({"optim": "adamw_8bit"}, on_gpu=False)
