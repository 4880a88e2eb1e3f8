"""A real network filesystem on this machine: MooseFS, its servers and two client mounts.

The two mounts have caches of their own, as on two nodes. It needs root, `/dev/fuse` and Debian's
packages `moosefs-master moosefs-chunkserver moosefs-client fuse3 iproute2`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ADDRESS = os.environ.get("JOBSPEC_MOOSEFS_ADDRESS", "10.77.8.1")
_TOOLS = ("mfsmaster", "mfschunkserver", "mfsmount", "ip", "umount")
_SEED = Path("/var/lib/mfs/metadata.mfs.empty")
_SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_UP_WITHIN_S = 60.0


@dataclass(frozen=True)
class MooseFS:
    """A running filesystem. `a` and `b` are its two mounts."""

    base: Path
    a: Path
    b: Path
    master: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def doomed_mount(self) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
        """A third mount, and the process that serves it: killing it is what a node's crash is."""
        path = self.base / "doomed"
        path.mkdir()
        program = shutil.which("mfsmount", path=_SEARCH)
        assert program is not None
        with subprocess.Popen(
            [program, str(path), "-f", "-H", ADDRESS, "-o", "mfsnice=0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as served:
            try:
                deadline = time.monotonic() + _UP_WITHIN_S
                while not path.is_mount():
                    assert time.monotonic() < deadline and served.poll() is None
                    time.sleep(0.01)
                yield path, served
            finally:
                served.kill()
                _run("umount", "-l", str(path))
                path.rmdir()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The metadata server stops, so that every call on either mount hangs."""
        self.master.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.master.send_signal(signal.SIGCONT)


def missing() -> str | None:
    """Why it can't run here; None if it can."""
    if os.geteuid() != 0:
        return "needs root for an address and two mounts"
    if not Path("/dev/fuse").exists():
        return "needs /dev/fuse"
    absent = [tool for tool in _TOOLS if shutil.which(tool, path=_SEARCH) is None]
    if absent or not _SEED.exists():
        return (
            f"needs moosefs-master, -chunkserver, -client, fuse3, iproute2 (no {absent or _SEED})"
        )
    return None


@contextlib.contextmanager
def running(base: Path) -> Iterator[MooseFS]:
    """The filesystem below `base`, for the length of the block."""
    for name in ("master", "chunks", "disk", "a", "b"):
        (base / name).mkdir()
    _write_configs(base)
    with contextlib.ExitStack() as stack:
        # The chunk server refuses 127.0.0.1, so loopback gets another address.
        _run("ip", "addr", "replace", f"{ADDRESS}/32", "dev", "lo")
        stack.callback(_run, "ip", "addr", "del", f"{ADDRESS}/32", "dev", "lo")
        master = stack.enter_context(_server("mfsmaster", base / "master.cfg"))
        stack.enter_context(_server("mfschunkserver", base / "chunks.cfg"))
        for mount in (base / "a", base / "b"):
            _mount(mount)
            stack.callback(_run, "umount", "-l", str(mount))
        _wait_until_writable(base / "a" / ".ready", base / "b" / ".ready")
        yield MooseFS(base, base / "a", base / "b", master)


def _write_configs(base: Path) -> None:
    user = "WORKING_USER=root\nWORKING_GROUP=root\nNICE_LEVEL=0\n"
    shutil.copy(_SEED, base / "master" / "metadata.mfs")
    (base / "exports").write_text("* / rw,alldirs,maproot=0\n")
    (base / "topology").write_text("")
    (base / "disks").write_text(f"{base / 'disk'}\n")
    listen = "".join(f"{name}_LISTEN_HOST={ADDRESS}\n" for name in ("MATOML", "MATOCS", "MATOCL"))
    (base / "master.cfg").write_text(
        f"{user}{listen}DATA_PATH={base / 'master'}\n"
        f"EXPORTS_FILENAME={base / 'exports'}\nTOPOLOGY_FILENAME={base / 'topology'}\n"
    )
    (base / "chunks.cfg").write_text(
        f"{user}DATA_PATH={base / 'chunks'}\nHDD_CONF_FILENAME={base / 'disks'}\n"
        f"MASTER_HOST={ADDRESS}\nMASTER_RECONNECTION_DELAY=1\nCSSERV_LISTEN_HOST={ADDRESS}\n"
    )


@contextlib.contextmanager
def _server(tool: str, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One server in the foreground, so that it is ours to stop, freeze and end."""
    program = shutil.which(tool, path=_SEARCH)
    assert program is not None
    with (
        config.with_suffix(".log").open("wb") as log,
        subprocess.Popen(
            [program, "-c", str(config), "-f", "start"], stdout=log, stderr=log
        ) as own,
    ):
        try:
            yield own
        finally:
            own.terminate()
            try:
                own.wait(30)
            except subprocess.TimeoutExpired:
                own.kill()


def _mount(path: Path) -> None:
    deadline = time.monotonic() + _UP_WITHIN_S
    command = ("mfsmount", str(path), "-H", ADDRESS, "-o", "mfsnice=0,mfsioretries=5")
    while (done := _run(*command)).returncode != 0:
        assert time.monotonic() < deadline, done.stdout.decode(errors="replace")
        time.sleep(0.2)  # the master may not listen yet


def _wait_until_writable(path: Path, seen_as: Path) -> None:
    deadline = time.monotonic() + _UP_WITHIN_S
    while True:
        with contextlib.suppress(OSError):
            path.write_text("ready")
            if seen_as.read_text() == "ready":
                return
        assert time.monotonic() < deadline, "the chunk server never came up"
        time.sleep(0.2)


def _run(*command: str) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which(command[0], path=_SEARCH) or command[0]
    return subprocess.run(
        [program, *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
