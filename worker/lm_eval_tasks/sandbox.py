"""Runs generated Python code in a sandbox: no network, a read-only system, limited time and memory.

The sandbox is bubblewrap (`bwrap`), which needs no privileges. The code sees the system's
directories and this Python, all read-only, and an empty `/tmp` in memory; not the user's files, the
environment or other processes. Without bubblewrap no code is run at all.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jobspec.errors import BenchmarkError

TIME_LIMIT_S = 10
MEMORY_LIMIT_GIB = 4
_STARTS_IN_S = 30  # how long Python may take to start on a busy machine
_FILE_BYTES = 1 << 26
_PROCESSES = 512
# What Python needs of the system.
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
# Runs inside: sets the limits, runs the program and, only if it gets to its end, repeats a word.
_RUNNER = """
import os, resource, signal, sys
seconds, memory, size, processes = map(int, sys.argv[1:])
word, program = sys.stdin.readline(), sys.stdin.read()
answers, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nowhere, number)
limits = {"CPU": seconds, "AS": memory, "FSIZE": size, "NPROC": processes, "CORE": 0}
for name, limit in limits.items():
    kind = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))
signal.alarm(seconds)
exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
os.write(answers, word.encode())
os._exit(0)
"""


def require() -> None:
    """Check that generated code can be run safely on this machine.

    Raises:
        BenchmarkError: there is no bubblewrap, or it can't make a sandbox here.
    """
    reason = missing()
    if reason is not None:
        raise BenchmarkError(
            f"generated code can't be run safely here: {reason}",
            place="$.eval.benchmarks",
            hint="install bubblewrap (`apt-get install bubblewrap`) here and in the workers' image",
        )


def passes(program: str, *, time_limit_s: int = TIME_LIMIT_S) -> bool:
    """Whether a Python program gets to its end in a sandbox, in time and without an error.

    A program that ends itself before, by `sys.exit` for example, does not pass.
    """
    word = os.urandom(16).hex() + "\n"
    try:
        done = subprocess.run(
            _command(time_limit_s),
            input=(word + program).encode("utf-8", "replace"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "HOME": "/tmp"},
            timeout=time_limit_s + _STARTS_IN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:  # the sandbox and all in it are killed
        return False
    return done.returncode == 0 and done.stdout == word.encode()


def pass_all(programs: Sequence[str], *, time_limit_s: int = TIME_LIMIT_S) -> list[bool]:
    """`passes` of each program, as many at a time as there are processors."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(functools.partial(passes, time_limit_s=time_limit_s), programs))


@functools.cache
def missing() -> str | None:
    """Why there is no sandbox on this machine; None if there is one."""
    if shutil.which("bwrap") is None:
        return "bubblewrap (`bwrap`) is not installed"
    if passes("pass"):
        return None
    tried = subprocess.run(
        _command(TIME_LIMIT_S), input=b"", capture_output=True, check=False, timeout=_STARTS_IN_S
    )
    lines = tried.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "bubblewrap can't start Python"


def _command(time_limit_s: int) -> list[str]:
    limits = (time_limit_s, MEMORY_LIMIT_GIB << 30, _FILE_BYTES, _PROCESSES)
    return [
        shutil.which("bwrap") or "bwrap",
        *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--tmpfs", "/tmp"),
        *_binds(),  # after /tmp, in which this Python may be
        *("--chdir", "/tmp"),
        *(sys.executable, "-I", "-c", _RUNNER),
        *map(str, limits),
    ]


def _binds() -> Iterator[str]:
    for directory in (*_SYSTEM, *_outside_the_system(sys.base_prefix, sys.prefix)):
        yield from ("--ro-bind-try", directory, directory)
    for device in _DEVICES:
        yield from ("--dev-bind-try", device, device)


def _outside_the_system(*directories: str) -> list[str]:
    """The directories that are not in `/usr`, which the sandbox has anyway."""
    return [each for each in directories if not Path(each).is_relative_to("/usr")]
