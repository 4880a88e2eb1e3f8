"""`jobspec audit resume`: over settings, and on runs whose resume was damaged on purpose."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest
import torch

from jobspec.records.audit import AuditedPart, Kill
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import JobPaths, PreparedPaths, RootPaths
from tests.support.commands import jobspec, jobspec_json
from tests.support.specs import job_spec, tiny_spec, write_spec
from worker.audit import compare
from worker.audit.kills import AFTER_SAVE, AuditPaths
from worker.audit.runs import AuditedRun, Between
from worker.audit.shrink import SAVE_EVERY, shrink
from worker.checkpoints import integrity

pytestmark = pytest.mark.deepspeed

FIELDS = ("ranks", "zero_stage", "packing", "lora", "dtype", "lr_scheduler_type")
# Every pair of values of two fields is in one of these rows. The last field is the number of kills.
MATRIX = [
    (2, 0, "auto", False, "bfloat16", "linear", 1),
    (1, 0, False, True, "float32", "cosine", 1),
    (2, 3, "auto", False, "float32", "cosine", 2),
    (2, 2, False, True, "bfloat16", "linear", 1),
    (1, 2, "auto", False, "float32", "linear", 3),
    (1, 3, False, False, "bfloat16", "linear", 1),
    (1, 2, "auto", True, "bfloat16", "cosine", 1),
]


def spec_of(tiny: Path, row: tuple[Any, ...]) -> JobSpec:
    values = dict(zip(FIELDS, row, strict=False))
    values.pop("ranks")
    dtype, lora = values.pop("dtype"), {"r": 2, "dropout": 0.1} if values.pop("lora") else None
    made = tiny_spec(tiny, lora=lora, warmup_ratio=0.2, **values)
    return msgspec.structs.replace(made, model=msgspec.structs.replace(made.model, dtype=dtype))


def test_the_matrix_has_every_pair_that_a_spec_can_have() -> None:
    values = [sorted({row[at] for row in MATRIX}, key=str) for at in range(len(FIELDS))]
    assert [len(each) for each in values] == [2, 3, 2, 2, 2, 2]
    for one, other in itertools.combinations(range(len(FIELDS)), 2):
        wanted = set(itertools.product(values[one], values[other]))
        if (FIELDS[one], FIELDS[other]) == ("zero_stage", "lora"):
            wanted -= {(3, True)}  # a spec refuses it
        assert {(row[one], row[other]) for row in MATRIX} == wanted


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: "-".join(map(str, row[:-1])))
def test_a_killed_training_resumes_bit_for_bit(
    tiny: Path, tmp_path: Path, row: tuple[Any, ...]
) -> None:
    file = write_spec(tmp_path / "spec.json", spec_of(tiny, row))
    options = ("--ranks", str(row[0]), "--kills", str(row[-1]), "--seed", str(MATRIX.index(row)))
    command = ("audit", "resume", file, *options, "--root", tmp_path / "root")
    # With ZeRO-3, DeepSpeed calls a function of torch that is deprecated.
    audit = jobspec_json(*command, PYTHONWARNINGS="default")
    assert audit["identical"], audit
    assert [part["different"] for part in audit["parts"]] == [0] * len(compare.PARTS)
    assert all(part["compared"] for part in audit["parts"])
    assert len(audit["kills"]) == row[-1]
    assert (audit["ranks"], audit["steps"], audit["checkpoints"]) == (row[0], 15, [3, 6, 9, 12])


class Pair:
    """A run without kills, and what becomes of one that is killed right after its first save."""

    def __init__(self, spec: JobSpec, directory: Path) -> None:
        root = RootPaths(directory / "none")
        self._directory = directory
        self._small, _ = shrink(spec, root, directory, ranks=1, on_gpu=False)
        self._calm = self._run("calm")
        self._calm.go()

    def _run(self, name: str, like: AuditedRun | None = None) -> AuditedRun:
        directory = self._directory / name
        return AuditedRun(directory, self._small, ranks=1, save_every=SAVE_EVERY, like=like)

    def parts(self, name: str, damage: Between) -> dict[str, AuditedPart]:
        """What the audit finds if `damage` is done between the kill and the resume."""
        run = self._run(name, like=self._calm)
        run.go([Kill(attempt=1, step=SAVE_EVERY, point=AFTER_SAVE)], between=damage)
        assert run.resumed_from is not None
        return {part.name: part for part in compare.compare(self._calm, run, ranks=1)}


@pytest.fixture(scope="module")
def pair(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tiny_spec(tiny), tmp_path_factory.mktemp("pair"))


def edited(file: str, edit: Callable[[Any], None]) -> Between:
    """Change a file of the first checkpoint, and the hash that its manifest has of it."""

    def damage(paths: AuditPaths, job: JobPaths) -> None:
        checkpoint = job.attempt(1).checkpoint(SAVE_EVERY)
        manifest = integrity.read_manifest(checkpoint)
        assert manifest is not None
        (path,) = checkpoint.dir.rglob(file)
        content = torch.load(path, weights_only=False)
        edit(content)
        path.unlink()  # the audit keeps the original by a hard link
        torch.save(content, path)
        checkpoint.manifest.unlink()
        integrity.publish_manifest(checkpoint, msgspec.structs.replace(manifest, files={}))

    return damage


def add_to_a_moment(content: Any) -> None:
    state = content["optimizer_state_dict"]["base_optimizer_state"]["state"]
    state[0]["exp_avg"] += 1e-2


def test_a_moment_that_was_changed_is_found_in_the_first_resumed_step(pair: Pair) -> None:
    parts = pair.parts("moment", edited("*optim_states.pt", add_to_a_moment))
    assert not parts[compare.ROWS].different
    assert not parts[compare.RANDOM].different
    found = parts[compare.OPTIMIZER].first
    assert found is not None
    assert found.step == 2 * SAVE_EVERY
    assert "exp_avg" in found.place or "fp32" in found.place
    loss = parts[compare.LOSSES].first
    # Step 4 is computed with the saved weights; its update uses the changed moment.
    assert loss is not None and loss.step == SAVE_EVERY + 2
    assert parts[compare.FINAL].different
    largest = parts[compare.FINAL].largest_difference
    assert largest is not None and largest > 0


def test_a_random_state_that_was_lost_is_found_where_nothing_else_differs(pair: Pair) -> None:
    def reseed(content: Any) -> None:
        torch.manual_seed(1234)
        content["cpu"] = torch.random.get_rng_state()

    parts = pair.parts("random", edited("rng_state*.pth", reseed))
    found = parts[compare.RANDOM].first
    assert found is not None and found.step == 2 * SAVE_EVERY
    assert found.place.startswith("rng_state.pth: cpu[")
    assert [name for name, part in parts.items() if part.different] == [compare.RANDOM]


def test_rows_in_another_order_are_found_with_their_step_and_place(pair: Pair) -> None:
    def reorder(paths: AuditPaths, job: JobPaths) -> None:
        report = json.loads(job.attempt(1).done("prepare").read_text())
        split = PreparedPaths(paths.root / report["dir"]).train
        counts = numpy.load(split.counts)
        counts[0] = numpy.arange(len(counts[0])) + 100  # batches have rows of similar lengths
        numpy.save(split.counts, counts)  # of the same size, otherwise it is made again

    parts = pair.parts("order", reorder)
    found = parts[compare.ROWS].first
    assert found is not None and found.step == SAVE_EVERY + 1
    assert found.place == "rows of rank 0"
    assert found.uninterrupted != found.resumed
    loss = parts[compare.LOSSES].first
    assert loss is not None and loss.step == SAVE_EVERY + 1


DAMAGED = """
import sys
from tests.integration.test_audit import add_to_a_moment, edited
from worker.audit import kills, resume

kills.draw = lambda count, **_: (kills.Kill(attempt=1, step=3, point=kills.AFTER_SAVE),)
original = resume.audit
damage = edited("*optim_states.pt", add_to_a_moment)
resume.audit = lambda *args, **kwargs: original(*args, **kwargs, between=damage)
sys.argv = sys.argv[2:]
from worker.audit import resume_command
resume_command.main()
"""


def test_the_command_reports_a_divergence_and_exits_with_1(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.py").write_text(DAMAGED)
    file = write_spec(tmp_path / "spec.json", tiny_spec(tiny))
    python = f"{sys.executable} {tmp_path / 'damaged.py'}"
    command = ("audit", "resume", file, "--kills", "1", "--root", tmp_path / "root")
    done = jobspec(*command, code=1, JOBSPEC_WORKER_COMMAND=python)
    assert f"the runs differ first at step {SAVE_EVERY + 2}, losses: " in done.stdout
    assert "attempt 1 killed right after a checkpoint was completed, step 3; resumed from 3" in (
        done.stdout
    )
    assert "row order               identical" in done.stdout


def test_what_can_not_be_audited_is_refused(tiny: Path, tmp_path: Path) -> None:
    scored = write_spec(tmp_path / "scored.json", job_spec(tiny / "model", name="scored"))
    done = jobspec("audit", "resume", scored, "--root", tmp_path / "root", code=1)
    assert "this spec trains nothing, so nothing is resumed" in done.stderr
    tuned = tiny_spec(tiny, sequence_parallel=2)
    file = write_spec(tmp_path / "parallel.json", tuned)
    done = jobspec("audit", "resume", file, "--root", tmp_path / "root", code=1)
    assert "groups of 2 ranks can't be made of 1" in done.stderr
    assert "give --ranks 2" in done.stderr
