from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY
from tests.support.waiting import until

BOTH = pytest.mark.parametrize("isolation", ["auto", "subreaper"])
SCRIPT = """
import os, pathlib, signal, subprocess, sys, time
rank, out = os.environ["RANK"], pathlib.Path(sys.argv[1])
def stop(*_):
    (out / f"stopped{rank}").touch()
    os._exit(75)
signal.signal(signal.SIGUSR2, stop)
daemon = subprocess.Popen(["setsid", "sleep", "1000.%d" % os.getpid()])
(out / f"up{rank}").write_text(" ".join(os.environ[n] for n in ("WORLD_SIZE", "LOCAL_RANK")))
seconds, code = sys.argv[2 + int(rank)].split(":")
time.sleep(float(seconds))
sys.exit(int(code))
"""


def sit(directory: Path, isolation: str, *behaviour: str) -> list[str]:
    """The rank_launcher's command for two ranks; behaviour: seconds:exit code, a rank each."""
    script = directory / "rank.py"
    script.write_text(SCRIPT)
    rank_launcher = [
        sys.executable,
        "-m",
        "worker.process.rank_launcher",
        "--ranks",
        "2",
        "--isolation",
        isolation,
    ]
    return [*rank_launcher, "--", sys.executable, str(script), str(directory), *behaviour]


def alive(directory: Path) -> list[str]:
    """Command lines of everything started for the test, daemons in sessions of their own too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            where = str((entry / "cwd").readlink())
        except OSError:
            continue
        if where == str(directory) and ("rank.py" in line or "sleep 1000." in line):
            found.append(line)
    return found


@BOTH
@pytest.mark.parametrize(
    ("behaviour", "code"), [(("0:0", "0.1:0"), 0), (("0:0", "0:5"), 5), (("0:75", "0.1:75"), 75)]
)
def test_the_first_failing_ranks_code_counts_and_nothing_is_left(
    tmp_path, isolation, behaviour, code
):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = sit(tmp_path, isolation, *behaviour)
    done = subprocess.run(command, cwd=tmp_path, env=env, check=False, timeout=60)
    assert done.returncode == code
    assert (tmp_path / "up0").read_text() == "2 0"
    assert (tmp_path / "up1").read_text() == "2 1"
    until(lambda: not alive(tmp_path), "something was left alive")


@BOTH
def test_a_stop_reaches_every_rank(tmp_path, isolation):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = sit(tmp_path, isolation, "100:0", "100:0")
    with subprocess.Popen(command, cwd=tmp_path, env=env) as process:
        until(lambda: (tmp_path / "up0").exists() and (tmp_path / "up1").exists(), "ranks")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
    assert (tmp_path / "stopped0").exists()
    assert (tmp_path / "stopped1").exists()
    until(lambda: not alive(tmp_path), "something was left alive")


SLOW = """
import sys, time
from worker.process import rank_launcher
def slow():
    print("begun", flush=True)
    time.sleep(0.5)
rank_launcher.mount_own_proc = slow
rank_launcher.main()
"""


@pytest.mark.parametrize("sig", [signal.SIGUSR2, signal.SIGTERM])
def test_a_stop_while_the_namespace_is_made_is_kept(tmp_path, sig):
    if not has_namespaces():
        pytest.skip("the kernel allows no PID namespace")
    command = sit(tmp_path, "auto", "9:0", "9:0")
    command[1:3] = ["-c", SLOW]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None and launcher.stdout.readline() == "begun\n"
        launcher.send_signal(sig)
        # The ranks stop as they please, or are killed before they have a handler.
        assert launcher.wait(8) in (75, 128 + signal.SIGUSR2)


@BOTH
def test_nothing_outlives_a_killed_parent(tmp_path, isolation):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = sit(tmp_path, isolation, "100:0", "100:0")
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", parent, *command], cwd=tmp_path, env=env
    ) as process:
        until(lambda: (tmp_path / "up0").exists() and (tmp_path / "up1").exists(), "ranks")
        assert alive(tmp_path)
        process.kill()
        process.wait()
        until(lambda: not alive(tmp_path), "a rank or daemon outlived the worker", 5.0)


def has_namespaces() -> bool:
    """Whether this user may make a process namespace; many containers forbid it."""
    tried = "from worker.process.rank_launcher import enter_pid_namespace as e; assert e()"
    done = subprocess.run([sys.executable, "-c", tried], cwd=REPOSITORY, check=False)
    return done.returncode == 0


@BOTH
def test_no_rank_outlives_a_killed_rank_launcher(tmp_path, isolation):
    """Except daemons, which only a living rank launcher can end without a namespace."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = sit(tmp_path, isolation, "100:0", "100:0")
    with subprocess.Popen(command, cwd=tmp_path, env=env) as process:
        until(lambda: (tmp_path / "up0").exists() and (tmp_path / "up1").exists(), "ranks")
        process.kill()
        process.wait()
        try:
            until(lambda: "rank.py" not in str(alive(tmp_path)), "a rank outlived it", 5.0)
            if isolation == "auto" and has_namespaces():
                until(lambda: not alive(tmp_path), "a daemon outlived the namespace", 5.0)
        finally:
            end_daemons(tmp_path)


def end_daemons(directory: Path) -> None:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            theirs = (entry / "cwd").readlink() == directory
            if theirs and b"sleep" in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
