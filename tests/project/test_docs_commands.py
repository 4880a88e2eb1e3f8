"""Every command in README and docs/ is run, and what the page shows is what it prints.

A page's commands run in their order, in one small world: a directory of specs and rows, a root with
jobs in every state, models without weights. `jobspec` runs in this process, a line with pipes or
redirections in bash. Shown lines must be among the printed ones, figures, ids and times aside. What
can't run here stands in `RUN_BY` with what does run it; a command that neither runs nor stands
there fails.
"""

from __future__ import annotations

import fnmatch
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner

from jobspec.cli import cli
from jobspec.queue.queue import Queue
from tests.support import docs_world
from tests.support.docs import PAGES, Command, commands, shape
from tests.support.docs_world import World
from tests.support.paths import REPOSITORY

# Command lines that do not run here → what runs them: a test, a step of .ci/run, or why nothing.
RUN_BY = {
    "make demo*": ".ci/run: make demo",
    "make test*": ".ci/run: make test",
    "make lint types*": ".ci/run: make lint",
    "make docs*": ".ci/run: make docs",
    "tests/integration/vllm/create-environment *": ".ci/run: vllm_environment",
    "~/.cache/jobspec-ci/vllm/bin/python -m pytest *": ".ci/run: with_vllm",
    ".ci/run*": "nothing: it is what runs everything",
    "git clone *": "nothing: the address is the reader's",
    "python3 -m venv .login *": "tests/integration/cluster/build-sif",
    "make container *": "tests/integration/cluster/build-sif",
    "export JOBSPEC_WORKER_COMMAND=*": "tests/integration/test_fetch_command.py",
    "apptainer exec *": "tests/integration/cluster/test_array.py",
    "jobspec submit --array 0-[13]": "tests/integration/cluster/test_array.py",
    "jobspec scale --max ?": "tests/integration/cluster/test_nodes.py",
    "squeue": "tests/support/slurm.py",
    "cat $JOBSPEC_ROOT/slurm/*_0.log": "tests/support/cluster.py",
    "srun -N2 *": "tests/integration/shared_fs/test_two_doctors.py",
    "jobspec demo": "tests/integration/test_end_to_end.py",
    "jobspec-worker --drain": "tests/integration/test_end_to_end.py",
    "jobspec audit resume *": "tests/integration/test_audit.py",
    "*jobspec audit eval *": "tests/integration/test_audit_eval.py",
    "jobspec run *": "tests/integration/test_run_command.py",
    "jobspec fetch *": "tests/integration/test_fetch_command.py",
    "jobspec setup": "tests/jobspec/cluster/test_cluster.py",
    "jobspec status --watch": "tests/jobspec/cli/test_watch.py",
    "jobspec serve *": "tests/integration/test_report_page.py",
    "jobspec rescore *": "tests/integration/test_score_commands.py",
    "jobspec verify *": "tests/jobspec/bundle/test_verify_command.py",
    "jobspec replay *": "tests/jobspec/bundle/test_replay_command.py",
    "jobspec wait *": "tests/jobspec/cli/test_queue_commands.py",
    "jobspec notify *": "tests/jobspec/monitoring/test_notify.py",
    "jobspec doctor": "tests/jobspec/doctor/test_doctor.py",
    "jobspec relay --watch": "tests/integration/test_relay_online.py",
    "jobspec relay": "tests/integration/test_relay_online.py",
    "jobspec relay --verify": "tests/integration/test_relay_online.py",
    "jobspec relay 'qwen3-[*]' --offline": "tests/integration/test_relay_offline.py",
    "jobspec relay --watch --sink tensorboard": "tests/integration/test_relay_tensorboard.py",
    "jobspec relay --watch --sink trackio": "tests/integration/test_relay_trackio.py",
    "TRACKIO_DIR=*": "tests/integration/test_relay_trackio.py",
    "tensorboard --logdir *": "tests/integration/test_relay_tensorboard.py",
    "wandb sync *": "tests/integration/test_relay_offline.py",
    "make bench*": "nothing: it takes an hour; its options: tests/project/test_bench_commands.py",
    "python -m benchmarks.*": "tests/project/test_bench_commands.py",
}

_OPERATORS = set("|&;<>()")
T = TypeVar("T")


def _image(world: World) -> None:
    """The image is there; nobody opens it here. What its Transformers would say is known."""
    Path(world.env["S"], "worker.sif").touch()
    world.bring("tokenizers")


def _fetch(world: World) -> None:
    """Models are in the root's cache."""
    world.bring("hub")


def _claim(world: World) -> None:
    """Two elements start, and each claims a job."""
    queue = Queue(world.root)
    for worker in ("n1-2-0-9c1e4eed4724d4a0", "n2-1-0-c7360f482da000c6"):
        claim = docs_world.claim(queue, worker)
        world.unfinished.append(partial(docs_world.finish, queue, claim))


def _finish(world: World) -> None:
    """What the elements work on ends well."""
    for finish in world.unfinished:
        finish()


def _drain(world: World) -> None:
    """Everything that waits is done."""
    for root in {world.root, Path(world.env["TMP"], "root")}:
        docs_world.work_off(Queue(root))


# What a command that runs elsewhere would have left for those after it.
LEAVES: dict[str, Callable[[World], None]] = {
    "make container *": _image,
    "jobspec fetch *": _fetch,
    "jobspec submit --array 0-1": _claim,
    "jobspec scale --max 4": _finish,
    "jobspec-worker --drain": _drain,
}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("docs") / "world"
    docs_world.make(place)
    return place


@pytest.fixture
def short_path() -> Iterator[Path]:
    """What a page shows is made for 120 columns, and paths as short as its own."""
    with tempfile.TemporaryDirectory(prefix="d-") as name:
        yield Path(name)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.name)
def test_the_commands_of_a_page(
    page: Path, first: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = short_path / "w"
    shutil.copytree(first, place, symlinks=True)
    world = World.at(place)
    monkeypatch.chdir(world.work)
    monkeypatch.delenv("COLUMNS", raising=False)  # xdist sets it; a pipe's lines have no end
    wrong = [text for command in commands(page) if (text := tried(command, world, monkeypatch))]
    assert not wrong, "\n\n".join(wrong)


def tried(command: Command, world: World, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run a command, or do what stands in for it; what is wrong, in words."""
    refused = any(line.startswith("error: ") for line in command.output)
    if not refused and matching(RUN_BY, command.text):
        for leave in matching(LEAVES, command.text):
            leave(world)
        return None
    code, out, err = run(world.here(command.text), world, monkeypatch)
    if code != int(refused):
        return f"{command.where}: `{command.text}` exited {code}\n{out}{err}"
    printed = {shape(line) for line in world.as_shown(out + err).splitlines()}
    shown = [line for line in command.output if not line.startswith("demo: ")]  # make demo's own
    missing = [line for line in shown if shape(line) not in printed | {"", "…"}]
    if missing:
        shown = "\n  ".join(missing)
        return f"{command.where}: `{command.text}` does not print\n  {shown}\nbut\n{out}{err}"
    return None


def matching(table: Mapping[str, T], text: str) -> list[T]:
    """What the patterns that a command line fits stand for; its comment does not count."""
    bare = text.partition("  #")[0].strip()
    return [value for pattern, value in table.items() if fnmatch.fnmatchcase(bare, pattern)]


def run(line: str, world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a line: `jobspec` in this process, else in bash."""
    words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
    if words[0] == "export":
        code, out, err = bash(f"{line}\nenv -0", world)
        world.env |= dict(entry.split("=", 1) for entry in out.split("\0")[:-1])
        return code, "", err
    if words[0] != "jobspec" or any(set(word) <= _OPERATORS for word in words):
        return bash(line, world)
    code, expanded, err = bash(f"set -- {line}\nprintf '%s\\0' \"$@\"", world)
    assert code == 0, err
    with monkeypatch.context() as patch:
        for name, value in world.env.items():
            patch.setenv(name, value)
        result = CliRunner().invoke(cli, expanded.split("\0")[1:-1], prog_name="jobspec")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def bash(script: str, world: World) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=world.work,
        env=world.env,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_list_of_what_runs_elsewhere_is_true() -> None:
    """Every line of it is used, and names something that there is."""
    texts = [command.text for page in PAGES for command in commands(page)]
    unused = [p for p in RUN_BY if not any(matching({p: 0}, text) for text in texts)]
    assert unused == []
    steps = (REPOSITORY / ".ci/run").read_text()
    for who in RUN_BY.values():
        kind, _, rest = who.partition(": ")
        there = {"nothing": True, ".ci/run": rest in steps}.get(kind)
        assert (REPOSITORY / who).is_file() if there is None else there, who
