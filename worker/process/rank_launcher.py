"""Starts a phase's ranks, and ends them when the worker ends. Standard library only.

    python -m worker.process.rank_launcher --ranks 2 [--port P] -- COMMAND ARG...

`--first`, `--world` and `--address` are for a phase on several nodes.

If the kernel allows it, the ranks run in their own PID namespace. This process dies with the worker
(PR_SET_PDEATHSIG), the first process of the namespace dies with this one, and the kernel then kills
everything in the namespace, including sessions and daemons. Otherwise this process is a subreaper
that kills all its descendants before it exits, and each rank sets PDEATHSIG itself.

SIGTERM and SIGUSR2 are forwarded to the ranks as SIGUSR2 and do not end this process, because a
launcher that dies first would leave orphans. The exit code is 0, or that of the first rank that
failed.

Source: prctl(2), pid_namespaces(7), unshare(2).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jobspec.records import exit_codes

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_MS_REC_PRIVATE = 0x4000 | 0x40000

_STOPS = (signal.SIGTERM, signal.SIGUSR2)
GRACE_S = 10.0  # time for the other ranks to exit after one has failed

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(sig: int, parent: int) -> None:
    """Let the kernel send `sig` to this process when its parent ends.

    RACE: if the parent has died before the call, this process has another parent already.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(exit_codes.ORPHANED)


def enter_pid_namespace() -> bool:
    """Create a PID namespace for the next children of this process; False if not allowed."""
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWPID | _CLONE_NEWNS) == 0:
        return True
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS) != 0:
        return False
    # Without these maps every file would appear to be owned by `nobody`.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def mount_own_proc() -> None:
    """Mount the new namespace's /proc. Some containers refuse this, and nothing depends on it."""
    _libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None)
    _libc.mount(b"proc", b"/proc", b"proc", 0, None)


class Ranks:
    """The ranks of one phase on this node, from their start to the end of the last one."""

    def __init__(self, command: list[str], args: argparse.Namespace) -> None:
        span = RankRange(args.first, args.world, args.address)
        me = os.getpid()
        self._ranks = [
            subprocess.Popen(
                command,
                env=rank_environment(rank, args.ranks, args.port, span),
                preexec_fn=lambda: _begin_rank(me),  # noqa: PLW1509 - one thread
            )
            for rank in range(args.ranks)
        ]

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: ask every rank to stop at a point they agree on."""
        for rank in self._ranks:
            with contextlib.suppress(ProcessLookupError):
                rank.send_signal(signal.SIGUSR2)

    def wait(self) -> int:
        """Wait for all ranks. After a failure the others get GRACE_S. Returns the exit code."""
        failed: int | None = None
        deadline = float("inf")
        while True:
            codes = [rank.poll() for rank in self._ranks]
            if failed is None:
                failed = next((code for code in codes if code), None)
                deadline = time.monotonic() + GRACE_S if failed is not None else deadline
            if None not in codes:
                return _exit_code(failed or 0)
            if time.monotonic() > deadline:
                self.kill()
            _reap_orphans({rank.pid for rank in self._ranks})
            time.sleep(0.02)

    def kill(self) -> None:
        """End every rank at once."""
        for rank in self._ranks:
            rank.kill()


def _begin_rank(parent: int) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    die_with_parent(signal.SIGKILL, parent)


@dataclass(frozen=True)
class RankRange:
    """Which ranks run on this node, and the address of rank 0. By default all ranks."""

    first: int = 0
    world: int | None = None
    address: str = "127.0.0.1"


ALL_RANKS = RankRange()


def rank_environment(
    rank: int, count: int, port: int, span: RankRange = ALL_RANKS
) -> dict[str, str]:
    """The environment of rank `rank` of this node, as torch's `env://` rendezvous reads it."""
    return {
        **os.environ,
        "RANK": str(span.first + rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(span.world or count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": span.address,
        "MASTER_PORT": str(port),
    }


def main() -> None:
    """Parse the command line, run the ranks, and exit with their code."""
    parser = argparse.ArgumentParser(prog="python -m worker.process.rank_launcher")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first rank here")
    parser.add_argument("--world", type=int, help="ranks on all nodes; default those here")
    parser.add_argument("--address", default="127.0.0.1", help="address of rank 0")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="PID of the worker")
    parser.add_argument("--isolation", choices=("auto", "subreaper"), default="auto")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    # RACE: until it has a handler, the first process of a namespace never sees a signal sent to it,
    # unless it blocks the signal; then the kernel keeps it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    if args.isolation == "auto" and enter_pid_namespace():
        sys.exit(_run_in_namespace(command, args))
    sys.exit(_run_as_subreaper(command, args))


def _run_in_namespace(command: list[str], args: argparse.Namespace) -> int:
    die_with_parent(signal.SIGKILL, args.parent)
    init = os.fork()
    if init == 0:
        # In the namespace, getppid() is always 0, so only PDEATHSIG reports the parent's death.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        mount_own_proc()
        ranks = Ranks(command, args)
        _handle(ranks.stop)
        os._exit(ranks.wait())

    _handle(lambda signum, frame: os.kill(init, signal.SIGUSR2))
    _, status = os.waitpid(init, 0)
    return _exit_code(os.waitstatus_to_exitcode(status))


def _run_as_subreaper(command: list[str], args: argparse.Namespace) -> int:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    die_with_parent(signal.SIGTERM, args.parent)
    ranks = Ranks(command, args)

    def stop_or_die(signum: int, frame: FrameType | None) -> None:
        if os.getppid() != args.parent:
            _kill_descendants()
            os._exit(exit_codes.ORPHANED)
        ranks.stop(signum, frame)

    _handle(stop_or_die)
    code = ranks.wait()
    _kill_descendants()
    return code


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for sig in _STOPS:
        signal.signal(sig, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _kill_descendants() -> None:
    """Kill children until none is left. The children of a killed process become ours."""
    children = Path("/proc/thread-self/children")
    while pids := children.read_text().split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(pid), 0)


def _reap_orphans(ranks: set[int]) -> None:
    """Reap orphans that became our children; Popen reaps the ranks."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in ranks:
                return
            os.waitpid(ended.si_pid, 0)


def _exit_code(code: int) -> int:
    """The exit code as a shell reports it: 128 + the number of a signal."""
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
