"""Checks without importing torch whether the driver and the installed packages fit together."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_CUDA = re.compile(r"^cuda\b.*=\s*['\"](\d+)\.(\d+)", re.MULTILINE)
_HIP = re.compile(r"^hip\b.*=\s*['\"]\d", re.MULTILINE)


def unmet_requirements(requirements: Iterable[str] | None = None) -> list[str]:
    """One message for each package that is missing or has an unsupported version.

    Args:
        requirements: as in a package's metadata. Default: those of the installed
            `jobspec[worker]`; none if jobspec is not installed.
    """
    if requirements is None:
        try:
            requirements = importlib.metadata.requires("jobspec") or []
        except importlib.metadata.PackageNotFoundError:
            requirements = []
    messages = (_unmet(Requirement(each)) for each in requirements)
    return [message for message in messages if message is not None]


def _unmet(wanted: Requirement) -> str | None:
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": "worker"}):
        return None
    try:
        installed = importlib.metadata.version(canonicalize_name(wanted.name))
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if wanted.specifier.contains(installed, prereleases=True):
        return None
    return f"{wanted.name} is {installed}, not {wanted.specifier}"


def cuda_of_torch() -> tuple[int, int] | None:
    """The CUDA version that torch was built for; None for a CPU build or without torch."""
    match = _CUDA.search(_version_of_torch())
    return (int(match[1]), int(match[2])) if match else None


def torch_is_for_rocm() -> bool:
    """Whether torch was built for AMD's GPUs."""
    return _HIP.search(_version_of_torch()) is not None


def _version_of_torch() -> str:
    """The text of torch's version.py; empty without torch."""
    spec = importlib.util.find_spec("torch")
    directories = spec.submodule_search_locations if spec is not None else None
    files = (Path(directory, "version.py") for directory in directories or [])
    return next((file.read_text() for file in files if file.exists()), "")


def cuda_disagreement(driver: tuple[int, int], built: tuple[int, int] | None) -> str | None:
    """Why torch can't run on this driver; None if it can.

    A driver runs programs built for its own major version of CUDA or an earlier one.

    Source: NVIDIA, CUDA Compatibility, minor version compatibility.

    Args:
        driver: the newest CUDA version that the driver supports.
        built: the CUDA version that torch was built for; None for a CPU build.
    """
    if built is None:
        return "there are GPUs, but torch is a CPU build"
    if driver[0] >= built[0]:
        return None
    known, wants = (".".join(map(str, version)) for version in (driver, built))
    return f"the driver supports CUDA {known}, but torch was built for {wants}"
