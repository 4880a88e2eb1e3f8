"""CONTRIBUTING's lists of files to touch: each is tried in a copy of the project.

A trial may change the files that one list names and no others, and must change each of them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobspec.queue.queue import Queue
from tests.support.commands import environment
from tests.support.paths import DATA, REPOSITORY
from tests.support.specs import base_spec

# The title of each list → its text.
LISTS: dict[str, str] = dict(
    re.findall(
        r"^\*\*(.+)\*\*\n: ((?:.+\n)+)", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
)
COPIED = ("jobspec", "worker", "tests", "specs", "docs", "slurm", "benchmarks")
FILES = ("pyproject.toml", "CONTRIBUTING.md", "README.md", "CHANGELOG.md", "Makefile")
RULES = "tests/project/test_layering.py::test_the_rule_holds"
DOCUMENTED = (
    "tests/project/test_docs.py::test_every_field_of_a_spec_is_documented_with_default_and_limits"
)
CONTRACT = "tests/worker/inference/test_engines.py::test_contract"
SAME_IDS = (
    "tests/jobspec/spec/test_identity.py::test_ids_of_the_spec_files_stay_the_same",
    "tests/jobspec/spec/test_identity.py::test_ids_of_partly_written_specs_stay_the_same",
)


def paths_of(title: str) -> set[str]:
    """The files and directories (with a `/` at the end) that a list names."""
    return {name for name in re.findall(r"`([^`\s]+)`", LISTS[title]) if "/" in name}


@pytest.mark.parametrize("title", LISTS)
def test_every_path_that_a_list_names_exists(title: str) -> None:
    named = paths_of(title)
    assert named
    assert {name for name in named if not (REPOSITORY / name).exists()} == set()
    assert all(name.endswith("/") == (REPOSITORY / name).is_dir() for name in named)


class Trial:
    """A copy of the project in which only the files of one list may change."""

    def __init__(self, directory: Path, title: str) -> None:
        self.directory = directory / "project"
        self.paths = paths_of(title)
        self.changed: set[str] = set()
        ignored = shutil.ignore_patterns("__pycache__")
        for name in COPIED:
            shutil.copytree(REPOSITORY / name, self.directory / name, ignore=ignored)
        for name in FILES:
            shutil.copy(REPOSITORY / name, self.directory)

    def add(self, name: str, text: str) -> None:
        """Create a file."""
        self._allow(name)
        assert not (self.directory / name).exists()
        (self.directory / name).write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that the file has once."""
        self._allow(name)
        text = (self.directory / name).read_text()
        assert text.count(old) == 1, f"`{old}` is {text.count(old)} times in {name}"
        (self.directory / name).write_text(text.replace(old, new))

    def _allow(self, name: str) -> None:
        within = (path for path in self.paths if path.endswith("/") and name.startswith(path))
        allowed = {*within, *self.paths.intersection((name,))}
        assert allowed, f"{name} is not in the list: {sorted(self.paths)}"
        self.changed |= allowed

    def run(self, *arguments: str, code: int = 0, **env: str) -> str:
        """Run Python in the copy; returns what it printed on stdout."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=environment()
            | {"PYTHONPATH": str(self.directory), "JOBSPEC_TEST_DATA": str(DATA)}
            | env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def json(self, program: str, **env: str) -> Any:
        """What a program that runs in the copy prints as JSON."""
        return json.loads(self.run("-c", program, **env))

    def test(self, *names: str, code: int = 0) -> str:
        """Run tests of the copy."""
        return self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *names, code=code)

    def finish(self, *names: str, untouched: tuple[str, ...] = ()) -> None:
        """The rules of the layout hold, these tests pass, and each path of the list was needed."""
        self.test(RULES, *names)
        assert self.paths - self.changed == set(untouched)


BENCHMARK = '''
"""Yes or no: answers end in one of the two words."""

from __future__ import annotations

import re

from jobspec.benchmarks.benchmark import Benchmark, plain_question


def last_word(text: str) -> str | None:
    """The last `yes` or `no` of a text."""
    found = re.findall(r"\\b(yes|no)\\b", text.lower())
    return found[-1] if found else None


BENCHMARKS = (
    Benchmark(
        name="yes_no",
        title="Yes or no",
        files=("yes_no.jsonl",),
        url="",
        licence="MIT",
        question_count=2,
        samples=4,
        extract_answer=last_word,
        parse_question=plain_question,
    ),
)
'''
BENCHMARK_TEST = """
from jobspec.benchmarks import registry


def test_the_last_word_is_the_answer() -> None:
    benchmark = registry.get("yes_no")
    assert benchmark is not None and benchmark.extract_answer is not None
    assert benchmark.extract_answer("No. Or rather yes!") == "yes"
"""
GRADE = """
import json
from jobspec.benchmarks import registry
from jobspec.records.evaluation import AskedQuestion, Generation, SamplingPlan
from worker.evaluation import scoring
from worker.grading.math_grader import MathGrader

benchmark = registry.get("yes_no")
rows = [
    Generation(question="q", sample=i, seed=i, text=text, tokens=1, finish="stop")
    for i, text in enumerate(["Yes, I think so", "yes ... no", "perhaps"])
]
plan = SamplingPlan(key="", benchmark="yes_no", k=3, chunks=1)
with MathGrader() as math:
    (found,) = scoring.score(benchmark, plan, [(AskedQuestion(id="q", answer="yes"), rows)], math)
print(json.dumps([[sample.answer, sample.right] for sample in found.samples]))
"""


def test_a_benchmark_is_one_module_and_its_test(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "A benchmark with its own answer extraction")
    trial.add("jobspec/benchmarks/yes_no.py", BENCHMARK.lstrip())
    trial.add("tests/jobspec/benchmarks/test_yes_no.py", BENCHMARK_TEST.lstrip())
    printed = trial.run("-m", "jobspec", "benchmarks", "--root", str(tmp_path / "root"), "--json")
    (row,) = (row for row in json.loads(printed)["benchmarks"] if row["name"] == "yes_no")
    assert (row["questions"], row["metric"]) == (2, "avg_at_4")
    assert trial.json(GRADE) == [["yes", True], ["no", False], [None, False]]
    trial.finish("tests/jobspec/benchmarks", "tests/jobspec/cli/test_benchmarks_command.py")


def test_a_field_of_train_is_a_line_of_the_schema_its_use_and_a_row_of_the_page(
    tmp_path: Path,
) -> None:
    trial = Trial(tmp_path, "A field of `train`")
    packing = '    packing: Annotated[bool | Literal["auto"], NewDefault("auto")] = False\n'
    added = "    reduce_in_buckets: Annotated[Count | None, ADDED_LATER] = None\n"
    trial.edit("jobspec/spec/schema.py", packing, packing + added)
    trial.edit(
        "worker/training/deepspeed_config.py",
        '    zero: dict[str, Any] = {"stage": train.zero_stage}\n',
        '    zero: dict[str, Any] = {"stage": train.zero_stage}\n'
        "    if train.reduce_in_buckets is not None:\n"
        '        zero["reduce_bucket_size"] = train.reduce_in_buckets\n',
    )
    assert "reduce_in_buckets" in trial.test(f"{DOCUMENTED}[TrainSpec]", code=1)
    after = "| `sequence_parallel` |"
    trial.edit("docs/specs.md", after, f"| `reduce_in_buckets` | `null` | [1, 1e9] | |\n{after}")
    program = """
import json
from jobspec.spec import builder
from worker.training.deepspeed_config import deepspeed_config
request = builder.Request(models=["m"], settings=("train.reduce_in_buckets=5",))
(spec,) = builder.build(request)
print(json.dumps(deepspeed_config(spec, 1, on_gpu=False)["zero_optimization"]))
"""
    assert trial.json(program)["reduce_bucket_size"] == 5
    trial.finish(f"{DOCUMENTED}[TrainSpec]", *SAME_IDS)


RECORD = '''

class DescribeReport(Record, frozen=True, kw_only=True):
    """Report of the describe phase: the model it was asked about."""

    model: str = ""
'''
PHASE = '''
"""The describe phase: `python -m worker.data.describe ATTEMPT_DIR` notes which model is used."""

from __future__ import annotations

from jobspec.records import phases
from jobspec.records.reports import DescribeReport
from worker.phase import Phase, run


def body(phase: Phase) -> None:
    phase.finish(DescribeReport(model=phase.spec.model.name))


def main() -> None:
    run(phases.DESCRIBE, body)


if __name__ == "__main__":
    main()
'''
PHASE_TEST = """
from worker import phases
from tests.support.specs import base_spec


def test_it_comes_first() -> None:
    assert [phase.name for phase in phases.of(base_spec())] == ["describe", "eval"]
"""


def test_a_phase_is_its_module_two_entries_and_its_record(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "A phase")
    trial.add("worker/data/describe.py", PHASE.lstrip())
    reports = "jobspec/records/reports.py"
    last = (trial.directory / reports).read_text()
    trial.edit(reports, last, last + RECORD)
    names = "jobspec/records/phases.py"
    trial.edit(names, "import ConvertReport,", "import ConvertReport, DescribeReport,")
    first = 'PREPARE = PhaseInfo("prepare", '
    trial.edit(names, first, 'DESCRIBE = PhaseInfo("describe", DescribeReport, "eval")\n' + first)
    trial.edit(names, " = (PREPARE", " = (DESCRIBE, PREPARE")
    entry = '    PhaseEntry(info=phases.DESCRIBE, module="worker.data.describe"),\n'
    trial.edit("worker/phases.py", "\nPHASES = (\n", f"\nPHASES = (\n{entry}")
    trial.add("tests/worker/data/test_describe.py", PHASE_TEST.lstrip())

    # A worker runs it; then the eval phase finds that there is no such model.
    queue = Queue.create(tmp_path / "root")
    missing = str(tmp_path / "missing")
    job = queue.enqueue(base_spec(missing))
    trial.run("-m", "worker", "--root", str(tmp_path / "root"), "--drain")
    attempt = job.paths.attempt(1)
    assert json.loads(attempt.done("describe").read_text()) == {"model": missing}
    ended = json.loads(attempt.end.read_text())
    assert [phase["phase"] for phase in ended["phases"]] == ["describe", "eval"]
    trial.finish("tests/worker/data/test_describe.py", "tests/worker/launch/test_plan.py")


ENGINE = '''
"""An engine that answers with the question's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobspec.records.evaluation import Generation
from worker.inference.engine import Weights
from worker.inference.requests import SampleChunk


class EchoEngine:
    """Generates each sample from its request alone."""

    method = "repeats the request"

    @classmethod
    def load(
        cls, weights: Weights, tokenizer: Any, *, context: int | None = None, in_flight: int = 1
    ) -> EchoEngine:
        return cls()

    def run(self, chunks: Iterator[SampleChunk]) -> Iterator[tuple[SampleChunk, list[Generation]]]:
        for chunk in chunks:
            yield chunk, [
                Generation(
                    question=request.question, sample=request.sample, seed=request.seed,
                    text=request.question, tokens=1, finish="stop",
                )
                for request in chunk.requests
            ]

    def close(self) -> None:
        """Does nothing."""
'''
ENGINE_ENTRY = """
ECHO = EngineEntry(
    name="echo",
    title="Echo",
    module="echo_engine.EchoEngine",
    package="json",
    install="",
    versions=("msgspec",),
    chunk_rows=2,
)
ENGINES = {entry.name: entry for entry in (HF, VLLM, ECHO)}
"""
ASK_ENGINE = """
import json
from pathlib import Path
from jobspec.spec import parsing
from worker.inference.engine import choose
from worker.inference.requests import Sampling, SampleChunk, SampleRequest

text = '{"name": "a", "model": {"name": "m"}, "train": null, "eval": {"backend": "echo"}}'
spec = parsing.decode(text.encode())
choice = choose(spec.eval.backend, spec.model, Path(MODEL), gpus=0)
sampling = Sampling(max_gen_toks=4, temperature=1.0)
chunk = SampleChunk(
    benchmark="b", index=0, sampling=sampling,
    requests=(SampleRequest(question="q", sample=0, seed=7, prompt=(1, 2)),),
)
((_, rows),) = choice.load(object()).run(iter([chunk]))
print(json.dumps([rows[0].text, choice.rows(sampling, 2), choice.entry.title]))
"""


def test_an_engine_is_its_module_a_line_of_the_table_and_its_name(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "An inference engine")
    trial.add("worker/inference/echo_engine.py", ENGINE.lstrip())
    table = "ENGINES = {entry.name: entry for entry in (HF, VLLM)}\n"
    trial.edit("worker/inference/engine.py", table, ENGINE_ENTRY.lstrip())
    backends = 'backend: Literal["auto", "vllm", "hf"]'
    trial.edit("jobspec/spec/schema.py", backends, 'backend: Literal["auto", "vllm", "hf", "echo"]')
    trial.edit("docs/specs.md", "| auto, hf, vllm |", "| auto, echo, hf, vllm |")
    trial.edit(
        "tests/worker/inference/test_engines.py",
        '    params=["hf", "continuous", ',
        '    params=["echo", "hf", "continuous", ',
    )
    trial.edit(
        "tests/worker/inference/test_engines.py",
        '    if request.param == "own classes":\n',
        '    if request.param == "echo":\n'
        '        return importlib.import_module("worker.inference.echo_engine").EchoEngine()\n'
        '    if request.param == "own classes":\n',
    )
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 128}')
    answer = trial.json(f"MODEL = {str(tmp_path)!r}\n{ASK_ENGINE}")
    assert answer == ["q", 2, "Echo"]
    assert "1 passed" in trial.test(f"{CONTRACT}[echo-the_same_seeds_give_the_same_text]")
    trial.finish(f"{DOCUMENTED}[EvalSpec]")


SCHEDULER = '''
"""PBS as `scheduler.Scheduler`."""

from __future__ import annotations

import importlib.resources
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from jobspec.cluster.scheduler import QueuedElement, SchedulerRun, Submission
from jobspec.cluster.site import Site


class Pbs:
    """This host's PBS."""

    @property
    def is_available(self) -> bool:
        return shutil.which("qsub") is not None

    def submission(
        self, site: Site, site_file: Path, *, array: str, version: str, nodes: int = 0
    ) -> Submission:
        template = importlib.resources.files("jobspec.cluster").joinpath("worker.pbs")
        return Submission(f"{template.read_text()}# {site.root}\\n", ("qsub", "-J", array))

    def submit(self, submission: Submission, script: Path) -> str:
        command = [*submission.command, str(script)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def elements(self, name: str, user: str) -> list[QueuedElement] | None:
        return None

    def ended(self, runs: Sequence[SchedulerRun]) -> dict[SchedulerRun, bool]:
        return {}

    def wait_s(self, submission: Submission) -> float | None:
        return None

    def out_of_memory(self, run: SchedulerRun) -> str | None:
        return None
'''
SCHEDULER_TEST = """
from jobspec.cluster.pbs import Pbs


def test_it_knows_of_no_end() -> None:
    assert Pbs().ended([]) == {}
"""
SUBMIT = """
import json
from pathlib import Path
from jobspec.cluster import detect
from jobspec.cluster.site import Site
from worker.host import scheduler_env
found = detect.scheduler()
submission = found.submission(Site(root="/r", sif="/s"), Path("e"), array="0-3", version="")
print(json.dumps([found.submit(submission, Path("x")), scheduler_env.read().job, submission.text]))
"""


def test_a_scheduler_is_its_module_its_script_and_its_variables(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "A scheduler")
    trial.add("jobspec/cluster/pbs.py", SCHEDULER.lstrip())
    trial.add("jobspec/cluster/worker.pbs", "#!/bin/sh\n#PBS -N worker\n")
    detect = "jobspec/cluster/detect.py"
    slurm = "from jobspec.cluster.scheduler import Scheduler\n"
    trial.edit(detect, slurm, f"from jobspec.cluster.pbs import Pbs\n{slurm}")
    trial.edit(detect, "= (Slurm,)", "= (Slurm, Pbs)")
    job = 'job=env.get("SLURM_JOB_ID"),'
    trial.edit("worker/host/scheduler_env.py", job, f'{job[:-1]} or env.get("PBS_JOBID"),')
    trial.add("tests/jobspec/cluster/test_pbs.py", SCHEDULER_TEST.lstrip())

    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "qsub").write_text('#!/bin/sh\necho "$2.server"\n')
    (commands / "qsub").chmod(0o755)
    found = trial.json(SUBMIT, PATH=str(commands), PBS_JOBID="17.server")
    assert found == ["0-3.server", "17.server", "#!/bin/sh\n#PBS -N worker\n# /r\n"]
    trial.finish(
        "tests/jobspec/cluster/test_pbs.py",
        "tests/jobspec/cluster/test_cluster.py",
        untouched=("jobspec/cluster/scheduler.py",),  # named as the protocol
    )


def test_a_file_outside_the_list_is_refused(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "A phase")
    with pytest.raises(AssertionError, match=r"tests/project/x\.py is not in the list"):
        trial.add("tests/project/x.py", "")
    with pytest.raises(AssertionError, match=r"is 0 times in worker/phases\.py"):
        trial.edit("worker/phases.py", "no such text", "")
