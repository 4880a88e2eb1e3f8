"""Preflight: checks before every claim whether this node is fit to run a job."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobspec.errors import RootError
from jobspec.queue.root import group_allowed, open_root
from jobspec.storage.layout import RootPaths
from jobspec.storage.patience import patient
from worker.host import disk, gpus, scheduler_env, versions, vllm_package

_ASK_EVERY_S = 60.0
_RARELY_S = 600.0
_SKEW_S = 120.0
_ALLOCATE_TIMEOUT_S = 120.0
_ALLOCATE = """
import torch
for index in range(torch.cuda.device_count()):
    torch.ones(1 << 20, device=f"cuda:{index}").sum().item()
assert torch.cuda.device_count(), "torch sees no GPU: driver and CUDA build do not match"
"""
_SITE_TIMEOUT_S = 60.0
_HELD_GIB = 2.0  # the driver itself uses up to about 1 GiB of a GPU


@dataclass(frozen=True)
class Finding:
    """A failed check, with a hint.

    `of_node`: the same check may pass on another node. `host`: of the node, if not this one.
    """

    check: str
    message: str
    hint: str
    of_node: bool = True
    host: str = ""


class Fitness:
    """Runs the checks, and keeps the results of expensive ones for one or ten minutes."""

    def __init__(self, root: Path, tmp: Path, gpus: int | None = None) -> None:
        """`gpus`: how many the worker uses; by default all that it may use."""
        self._root = root
        self._tmp = tmp
        self._gpus = gpus
        self._asked_at = float("-inf")
        self._site: list[Finding] = []
        self._rarely_at = float("-inf")
        self._rare: list[Finding] = []
        self._unfit_since: float | None = None
        self.probed: list[Finding] = []  # by the node probe, which runs once

    def findings(self, *, in_use: bool = False) -> list[Finding]:
        """The checks that fail now; an empty list if the node is fit.

        Args:
            in_use: a process of this worker uses the GPUs, so that they can't be checked.
        """
        now = time.monotonic()
        if now - self._asked_at > _ASK_EVERY_S and not in_use:
            self._asked_at = now
            self._site = [*missing_gpus(), *held_gpus(self._gpus), *site_check()]
        if now - self._rarely_at > _RARELY_S and not in_use:
            self._rarely_at = now
            self._rare = [
                *wrong_root(self._root),
                *wrong_versions(),
                *skewed_clock(self._root),
                *unallocatable_gpus(),
            ]
        findings = [*self._site, *self._rare, *self.probed, *check(self._root, self._tmp)]
        if not any(finding.of_node for finding in findings):
            self._unfit_since = None
        elif self._unfit_since is None:
            self._unfit_since = now
        return findings

    def forget(self) -> None:
        """Run all checks again next time, because a job has just failed."""
        self._asked_at = self._rarely_at = float("-inf")

    @property
    def unfit_s(self) -> float:
        """Seconds for which the node has been unfit without interruption."""
        return 0.0 if self._unfit_since is None else time.monotonic() - self._unfit_since


def missing_gpus(env: Mapping[str, str] = os.environ) -> list[Finding]:
    """GPUs that fail, that Slurm allocated but are missing, or whose memory has errors."""
    promised = scheduler_env.read(env).gpus_on_node
    try:
        found = gpus.visible()
    except gpus.GpuError as error:
        return [Finding("gpu", error.message, error.hint or "check the GPU driver")]
    if promised is not None and promised > len(found):
        message = f"CUDA unavailable: Slurm allocated {promised} GPUs, but {len(found)} answer"
        return [Finding("gpu", message, "run nvidia-smi on this node")]
    broken = [gpu for gpu in found if gpu.uncorrected_errors]
    return [
        Finding(
            "ecc",
            f"{gpu.name} has uncorrectable memory errors",
            "report it to the cluster's administrators",
        )
        for gpu in broken
    ]


def held_gpus(count: int | None = None) -> list[Finding]:
    """GPUs whose memory other processes use. No job of this worker runs when it is called.

    Args:
        count: how many GPUs the worker uses, the first ones; None for all.
    """
    return [
        Finding(
            "gpu memory",
            f"{_holders(gpu)} uses {gpu.used_gib:.1f} of {gpu.memory_gib:.1f} GiB of GPU {index} "
            f"({gpu.name})",
            "end it if it is yours (`nvidia-smi` lists processes), or exclude this node",
        )
        for index, gpu in enumerate(gpus.answering()[:count])
        if gpu.used_gib > _HELD_GIB
    ]


def _holders(gpu: gpus.Gpu) -> str:
    if not gpu.processes:
        return "another process"
    return f"process {' or '.join(map(str, gpu.processes))}"


def unallocatable_gpus() -> list[Finding]:
    """GPUs on which memory can't be allocated. A child process tries it with torch."""
    if not gpus.answering():
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ALLOCATE],
            capture_output=True,
            check=False,
            text=True,
            timeout=_ALLOCATE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return [Finding("gpu", "allocating memory on a GPU hangs", "run nvidia-smi")]
    if done.returncode == 0:
        return []
    said = done.stderr.strip().splitlines() or ["no message"]
    return [Finding("gpu", f"CUDA can't allocate: {said[-1][:200]}", "run nvidia-smi")]


def wrong_versions() -> list[Finding]:
    """Packages that do not meet the requirements, or a driver older than torch's CUDA."""
    findings = [
        Finding("versions", message, "rebuild the environment or the image from this version")
        for message in versions.unmet_requirements()
    ]
    vllm = vllm_package.examine()
    if vllm.problem is not None:
        message = f"{vllm.problem}; run `{vllm.command}`"
        findings.append(Finding("vllm", message, "or `pip uninstall` it, if no job needs vLLM"))
    return [*findings, *wrong_driver()]


def wrong_driver() -> list[Finding]:
    """A driver older than the CUDA version that torch was built for, or a torch without CUDA."""
    driver = gpus.cuda_of_driver()
    if driver is None or not gpus.answering():
        return []
    message = versions.cuda_disagreement(driver, versions.cuda_of_torch())
    if message is None:
        return []
    cuda = ".".join(map(str, driver))
    hint = (
        "run `pip install --force-reinstall torch --index-url URL`, with the URL of PyTorch's "
        f"wheels for CUDA {cuda}, or use nodes with a newer driver"
    )
    return [Finding("driver", message, hint)]


def wrong_root(root: Path) -> list[Finding]:
    """A root that is not a queue of this version's layout, or that must not be trusted."""
    try:
        open_root(RootPaths(root), group=group_allowed())
    except RootError as error:
        return [Finding("layout", str(error), error.hint or "look at the root", of_node=False)]
    except OSError:
        return []  # the root does not answer; the claim will report it
    return []


def skewed_clock(root: Path, clock: Callable[[], float] = time.time) -> list[Finding]:
    """A clock that differs from the filesystem's. Tickets are sorted and marks expire by time."""
    probe = root / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.touch()
        skew_s = probe.stat().st_mtime - clock()
    except OSError:
        return []  # another check tells whether the root is writable
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    if abs(skew_s) <= _SKEW_S:
        return []
    message = (
        f"this clock is {abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} the root's"
    )
    return [Finding("clock", message, "ask the cluster's administrators to set it")]


def site_check(env: Mapping[str, str] = os.environ) -> list[Finding]:
    """The site's own check: the program in `JOBSPEC_PREFLIGHT` must exit with 0 within a minute."""
    program = env.get("JOBSPEC_PREFLIGHT")
    if not program:
        return []
    try:
        done = subprocess.run(
            [program], capture_output=True, check=False, text=True, timeout=_SITE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("site", f"`{program}`: {error}", "see JOBSPEC_PREFLIGHT")]
    if done.returncode == 0:
        return []
    said = (done.stdout + done.stderr).strip().splitlines()
    message = said[-1][:200] if said else f"exit code {done.returncode}"
    return [Finding("site", f"`{program}`: {message}", "the site's check failed")]


def check(root: Path, tmp: Path, *, min_free_gib: float = 1.0) -> list[Finding]:
    """Check the node-local directory and the free space."""
    findings: list[Finding] = []
    if disk.too_long_for_sockets(tmp):
        findings.append(
            Finding(
                "tmpdir",
                f"TMPDIR `{tmp}` is too long for a socket",
                "set a short one, e.g. /tmp/$USER",
            )
        )
    for name, directory in (("root", root), ("tmpdir", tmp)):
        free_gib = patient(shutil.disk_usage)(directory).free / 2**30
        if free_gib < min_free_gib:
            message = f"only {free_gib:.1f} GiB are free on `{directory}`"
            findings.append(Finding(name, message, "free some space there", of_node=name != "root"))
    try:
        with tempfile.TemporaryFile(dir=tmp) as probe:
            probe.write(b"0" * 4096)
    except OSError as error:
        findings.append(
            Finding("tmpdir", f"`{tmp}` is not writable: {error.strerror}", "set $TMPDIR")
        )
    return findings
