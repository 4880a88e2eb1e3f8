"""What IFEval's checker needs: packages, and NLTK's sentence splitter `punkt_tab`.

`jobspec fetch` downloads it into the root's cache. NLTK reads no data that another user owns or may
write to, as in a root that a group shares, so what is read is a private copy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jobspec.errors import BenchmarkError

VARIABLE = "NLTK_DATA"
PACKAGES = ("nltk", "langdetect", "immutabledict")
_PLACE = Path("tokenizers/punkt_tab")
_FILE = Path("english/collocations.tab")
_FETCH = "run `jobspec fetch SPEC…` on a node with network"


def require_packages(benchmark: str) -> None:
    """Raise BenchmarkError if a package that the checker needs is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise BenchmarkError(
            f"`{benchmark}` needs the Python package `{missing[0]}`",
            place="$.eval.benchmarks",
            hint=f"`pip install {' '.join(missing)}` here and in the workers' image",
        )


def look_in(directory: Path) -> None:
    """Look in this directory before the ones that $NLTK_DATA names."""
    named = [str(directory), os.environ.get(VARIABLE)]
    os.environ[VARIABLE] = os.pathsep.join(filter(None, named))


def find() -> Path | None:
    """The directory `punkt_tab`: in $NLTK_DATA, the home directory or with this Python."""
    named = os.environ.get(VARIABLE, "").split(os.pathsep)
    usual = [Path.home(), Path(sys.prefix), *map(Path, ("/usr/share", "/usr/local/share"))]
    places = [*map(Path, filter(None, named)), *(place / VARIABLE.lower() for place in usual)]
    found = (place / _PLACE for place in places)
    return next((path for path in found if (path / _FILE).is_file()), None)


def require(benchmark: str) -> Path:
    """As `find`. Raises BenchmarkError if it is not on this machine."""
    path = find()
    if path is None:
        raise BenchmarkError(
            f"`{benchmark}` needs NLTK's `punkt_tab` to count sentences, and it is not here",
            place="$.eval.benchmarks",
            hint=f"{_FETCH}, or name its directory in ${VARIABLE}",
        )
    return path


@contextlib.contextmanager
def readable(directory: Path) -> Iterator[None]:
    """Let this process and its children find the data, in a copy that belongs to its user alone.

    Args:
        directory: looked in before the ones that $NLTK_DATA names.
    """
    before = os.environ.get(VARIABLE)
    try:
        look_in(directory)
        with _private_copy():
            yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@contextlib.contextmanager
def _private_copy() -> Iterator[None]:
    found = find()
    if found is None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="nltk-") as made:
        target = Path(made) / _PLACE
        target.mkdir(parents=True, mode=0o700)
        for path in found.rglob("*"):
            kept = target / path.relative_to(found)
            if path.is_dir():
                kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copyfile(path, kept)
                kept.chmod(0o600)
        os.environ[VARIABLE] = made
        yield


def fetch(directory: Path, index: str | None = None) -> str:
    """Download it below `directory` unless this machine has it. Returns a line that says where.

    Args:
        index: address of NLTK's index, if not the usual one.

    Raises:
        BenchmarkError: the download failed.
    """
    found = find()
    if found is None:
        with tempfile.TemporaryDirectory(prefix="nltk-") as made:
            _download(made, index)
            found = directory / _PLACE
            shutil.copytree(Path(made) / _PLACE, found, copy_function=shutil.copyfile)
    return f"punkt_tab: NLTK's data in {found}"


def _download(directory: str, index: str | None) -> None:
    """Run NLTK's downloader, in a process of its own: NLTK writes only where it may read."""
    command = [sys.executable, "-m", "nltk.downloader", "-q", "-e", "-d", directory, "punkt_tab"]
    done = subprocess.run(
        command + (["-u", index] if index else []),
        env={**os.environ, VARIABLE: directory},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not (Path(directory) / _PLACE / _FILE).is_file():
        said = (done.stderr + done.stdout).strip().splitlines()
        raise BenchmarkError(
            f"NLTK's `punkt_tab` can't be downloaded: {said[-1] if said else 'no reason given'}",
            place="$.eval.benchmarks",
            hint=f"get punkt_tab.zip from github.com/nltk/nltk_data and unpack it into ${VARIABLE}"
            f"/{_PLACE.parent}",
        )
