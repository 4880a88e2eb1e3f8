"""The wheel: it holds every file the package needs, and runs where there is no checkout."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

BUILD = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in ("jobspec", "worker"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-c", BUILD, str(made)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(made.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel, and other packages from this environment."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=False)
    packages = next(directory.glob("lib/python3*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "shared.pth").write_text("\n".join([*shared, *site.getsitepackages()]) + "\n")
    return directory / "bin" / "python"


def run(python: Path, directory: Path, *arguments: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JOBSPEC_", "PYTHONPATH"))}
    done = subprocess.run(
        [str(python), "-m", *arguments],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for package in ("jobspec", "worker")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert any(name.endswith(".sbatch") for name in files)
    with zipfile.ZipFile(wheel) as archive:
        assert files - set(archive.namelist()) == set()


def test_the_commands_run_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    where = "import jobspec; print(jobspec.__file__)"
    command = [str(installed), "-c", where]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(installed.parent.parent) in found.stdout
    version = run(installed, tmp_path, "jobspec", "--version")
    assert version.startswith("jobspec ") and "commit" not in version.splitlines()[0]
    assert "msgspec " in version
    assert "enqueue" in run(installed, tmp_path, "jobspec", "--help")
    assert "calibrate" in run(installed, tmp_path, "jobspec", "calibrate", "--help")
    assert "--root" in run(installed, tmp_path, "worker", "--help")
