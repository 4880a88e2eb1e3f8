"""The cluster without a cluster: settings, renderings against golden texts, refusals.

Golden texts are rewritten by `JOBSPEC_GOLDEN=write python -m pytest
tests/jobspec/cluster/test_cluster.py`, to
be read before they are committed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from jobspec.cluster import batch_script, site, submit
from jobspec.cluster.site import Site
from jobspec.cluster.slurm import Slurm
from jobspec.errors import JobspecError
from tests.support.commands import jobspec, jobspec_json
from tests.support.paths import REPOSITORY
from tests.support.terminal import Terminal

GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sbatch"))
SITES = {
    "plain": Site(root="/scratch/ada/queue", sif="/scratch/ada/worker.sif"),
    "gpfs": Site(
        root="/fs/scratch/PAS0000/ada/queue",
        sif="/fs/scratch/PAS0000/ada/worker.sif",
        account="PAS0000",
        partition="gpu",
        time="03:00:00",
        gpus="4",
        gpu_type="a100",
        cpus="88",
        mem="0",
        modules="apptainer/1.4",
        binds="/fs/ess/PAS0000",
        stage_sif="1",
    ),
    "preemptible": Site(
        root="/lustre/with space/queue",
        sif="/lustre/with space/worker.sif",
        partition="preempt",
        qos="low",
        constraint="h100&nvme",
        time="1-00:00:00",
        signal_s="600",
        gpus="8",
        sbatch_options="--exclude=gpu012 --comment='an array'",
    ),
}


@pytest.mark.parametrize("name", SITES)
def test_rendered_script_matches_the_golden_file(name: str) -> None:
    text = batch_script.render(SITES[name], Path("/home/ada/site.env"), version="0.1.0")
    golden = GOLDEN / f"{name}-worker.sbatch"
    if os.environ.get("JOBSPEC_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("path", SCRIPTS + sorted(GOLDEN.glob("*.sbatch")), ids=lambda p: p.name)
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run([shellcheck, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_several_nodes_need_only_one_option(tmp_path: Path) -> None:
    """The script asks for one task per node, so `--nodes` alone starts the worker on more nodes."""
    site_file = tmp_path / "site.env"
    slurm, settings = Slurm(), SITES["gpfs"]
    one = slurm.submission(settings, site_file, array="0", version="0.1.0")
    two = slurm.submission(settings, site_file, array="0", version="0.1.0", nodes=2)
    assert two.command == (*one.command, "--nodes=2") and two.text == one.text
    assert "#SBATCH --nodes=1\n#SBATCH --ntasks-per-node=1\n" in one.text
    assert "#SBATCH --ntasks=" not in one.text


def test_options_come_before_the_first_command() -> None:
    """sbatch reads no option behind it; of two of a kind it takes the last."""
    told = batch_script.render(SITES["preemptible"], Path("/x/site.env")).splitlines()
    options = [index for index, line in enumerate(told) if line.startswith("#SBATCH")]
    assert all(line.startswith("#") for line in told[: options[-1]])
    names = [told[index].split()[1].partition("=")[0] for index in options]
    assert len(names) == len(set(names))


def test_written_settings_are_read_by_jobspec_and_by_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "slurm" / "site.env"
    for settings in SITES.values():
        site.write(file, settings)
        assert site.read(file) == settings
        show = f'. {file}; printf "%s|%s" "$JOBSPEC_ROOT" "$JOBSPEC_SBATCH_OPTIONS"'
        shell = subprocess.run(["bash", "-c", show], capture_output=True, text=True, check=True)
        assert shell.stdout == f"{settings.root}|{settings.sbatch_options}"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"root": "queue"}, "JOBSPEC_ROOT is a relative path: `queue`"),
        ({"root": ""}, "JOBSPEC_ROOT is not set"),
        ({"sif": ""}, "JOBSPEC_SIF is not set"),
        ({"gpus": "four"}, "JOBSPEC_GPUS is not a number"),
        ({"node_tmp": "/local/scratch/users/ada"}, "JOBSPEC_NODE_TMP has 24 characters: `/local"),
        ({"node_tmp": "scratch"}, "JOBSPEC_NODE_TMP is a relative path"),
        ({"time": "tomorrow"}, "JOBSPEC_TIME is not a time limit"),
        ({"time": "00:06:00"}, "leaves 60 s of work"),
        ({"time": "4"}, "leaves 0 s of work"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, changed: dict[str, str], says: str
) -> None:
    given = {"root": "/r", "sif": "/s", **changed}
    with pytest.raises(JobspecError, match=says):
        site.write(tmp_path / "site.env", Site(**given))
    assert not (tmp_path / "site.env").exists()


@pytest.mark.parametrize("line", ["rm -rf /", "JOBSPEC_ROOT=$HOME/q", "JOBSPEC_ROOT='/a", "A=`x`"])
def test_a_malformed_settings_file_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "site.env"
    file.write_text(f"JOBSPEC_SIF=/s\n{line}\n")
    with pytest.raises(JobspecError, match="line 2"):
        site.read(file)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("90:30", 5430), ("1:30:00", 5400), ("2-12", 216000), ("1-0:30", 88200)],
)
def test_time_limits_in_all_notations_are_parsed(time: str, seconds: int) -> None:
    fits = Site(root="/r", sif="/s", time=time, signal_s=str(seconds // 2))
    site.check(fits)
    with pytest.raises(JobspecError):
        site.check(Site(root="/r", sif="/s", time=time, signal_s=str(seconds // 2 + 1)))


def test_setup_changes_given_settings_and_keeps_the_others(tmp_path: Path) -> None:
    where = ["--site", tmp_path / "site.env"]
    root, sif = tmp_path / "root", tmp_path / "worker.sif"
    jobspec("setup", *where, "--root", root, "--sif", sif, "--account", "PAS1", "--gpus", "2")
    told = jobspec_json("setup", *where, "--time", "2:00:00")["settings"]
    assert (told["root"], told["account"], told["gpus"], told["time"]) == (
        str(root),
        "PAS1",
        "2",
        "2:00:00",
    )
    assert (root / "FORMAT").exists()


def test_setup_asks_for_all_settings_or_only_for_required_ones(tmp_path: Path) -> None:
    """Without options a dialogue; with some options, only missing required ones are asked for."""
    where = ["setup", "--site", str(tmp_path / "site.env")]
    dialogue = Terminal(*where, columns=100)
    for question, answer in (
        ("Directory of the queue", tmp_path / "root"),
        ("Apptainer image", tmp_path / "worker.sif"),
    ):
        dialogue.read_until(question)
        dialogue.type(f"{answer}\n")
    dialogue.read_until("your default): ")  # nothing in brackets: there is no default
    dialogue.type("PAS1\n" + 7 * "\n")
    assert "next: make container" in "".join(dialogue.screen())
    again = "".join(Terminal(*where, "--gpus", "2", columns=100).screen())
    assert "next: make container" in again and "(empty" not in again
    told = site.read(tmp_path / "site.env")
    assert (told.root, told.account, told.gpus) == (str(tmp_path / "root"), "PAS1", "2")
    lone = Terminal(
        "setup", "--site", str(tmp_path / "2.env"), "--root", str(tmp_path), columns=100
    )
    lone.read_until("Apptainer image (SIF file): ")
    lone.close()


def test_submit_refuses_before_anything_is_submitted(tmp_path: Path) -> None:
    where = ["--site", tmp_path / "site.env"]
    assert "jobspec setup" in jobspec("submit", *where, code=1).stderr
    jobspec("setup", *where, "--root", tmp_path / "root", "--sif", tmp_path / "worker.sif")
    refused = jobspec("submit", *where, code=1).stderr
    assert "there is no image" in refused
    assert f"make container SIF={tmp_path / 'worker.sif'}, or" in refused
    assert "not an array" in jobspec("submit", *where, "--array", "all", code=1).stderr
    assert "settings say" in jobspec("submit", *where, "--root", "/elsewhere", code=1).stderr
    shown = jobspec("submit", *where, "--dry-run", "--array", "0-3")
    assert "--array=0-3" in shown.stderr and f"{tmp_path}/root/slurm/" in shown.stdout
    assert not (tmp_path / "root" / "slurm").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"JOBSPEC_ROOT": "queue"}, "JOBSPEC_ROOT is a relative path: queue"),
        ({"JOBSPEC_SIF": ""}, "site.env does not set JOBSPEC_SIF"),
        ({"JOBSPEC_ROOT": "/nowhere/queue"}, "sees no queue at /nowhere/queue"),
        ({"JOBSPEC_APPTAINER": "no-such-program"}, "no-such-program is not installed on"),
        ({"JOBSPEC_SIF": "/nowhere/worker.sif"}, "sees no image at /nowhere/worker.sif"),
        ({"JOBSPEC_GPUS": "4"}, "asks for 4 GPUs per node, Slurm allocated none"),
        ({"JOBSPEC_MODULES": "no-such/1.0"}, "the module no-such/1.0 cannot be loaded"),
        ({"JOBSPEC_NODE_TMP": "/proc"}, "/proc on"),
        ({"JOBSPEC_NODE_TMP": "/nowhere"}, "/nowhere on"),
        ({"JOBSPEC_NODE_TMP": "/local/scratch/users/ada"}, "JOBSPEC_NODE_TMP has 24 characters"),
        ({}, ""),
    ],
)
def test_the_batch_script_explains_what_a_node_lacks(
    tmp_path: Path, changed: dict[str, str], says: str
) -> None:
    """The script itself, run as Slurm would."""
    (tmp_path / "FORMAT").write_text("{}")
    (tmp_path / "worker.sif").write_text("")
    settings = {"JOBSPEC_ROOT": str(tmp_path), "JOBSPEC_SIF": str(tmp_path / "worker.sif")}
    settings |= {"JOBSPEC_APPTAINER": "true", **changed}
    file = tmp_path / "site.env"
    file.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "990099", "JOBSPEC_SITE_ENV": str(file)}
    command = ["bash", str(REPOSITORY / "slurm" / "worker.sbatch")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode != 0, says in done.stderr) == (bool(says), True), done.stderr
    assert not says or "hint: " in done.stderr


def test_the_batch_script_uses_the_directory_on_the_nodes_disk(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="jsn-", dir="/tmp") as folder:
        told = run_batch_script(tmp_path, {}, JOBSPEC_NODE_TMP=folder)
    assert told["TMP"].startswith(f"{folder}/js-")


@pytest.mark.parametrize(
    "name",
    [
        *("SQUEUE_FORMAT", "SQUEUE_STATES", "SBATCH_TIMELIMIT", "SALLOC_PARTITION", "SINFO_FORMAT"),
        *("SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "PYTHONHOME", "PYTHONPATH"),
        *("APPTAINERENV_PYTHONPATH", "SINGULARITYENV_PYTHONHOME"),
    ],
)
def test_the_batch_script_drops_variables_that_change_slurm_or_python(
    tmp_path: Path, name: str
) -> None:
    told = run_batch_script(tmp_path, {name: "x"})
    assert name not in told and "SLURM_JOB_ID" in told


def run_batch_script(tmp_path: Path, shell: dict[str, str], **settings: str) -> dict[str, str]:
    """Run the script with a program in apptainer's place that prints its environment."""
    (tmp_path / "FORMAT").write_text("{}")
    (tmp_path / "worker.sif").write_text("")
    program = tmp_path / "apptainer"
    program.write_text("#!/bin/sh\necho TMP=$APPTAINER_TMPDIR\nexec env\n")
    program.chmod(0o755)
    settings |= {"JOBSPEC_ROOT": str(tmp_path), "JOBSPEC_SIF": str(tmp_path / "worker.sif")}
    settings |= {"JOBSPEC_APPTAINER": str(program)}
    file = tmp_path / "site.env"
    file.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "990099", "JOBSPEC_SITE_ENV": str(file)}
    command = ["bash", str(REPOSITORY / "slurm" / "worker.sbatch")]
    done = subprocess.run(command, env=env | shell, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_a_script_without_settings_names_the_command_that_writes_them(tmp_path: Path) -> None:
    for name in ("worker.sbatch", "build.sbatch"):
        command = ["bash", str(REPOSITORY / "slurm" / name)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "jobspec setup" in done.stderr


def test_an_image_older_than_the_code_is_refused(tmp_path: Path) -> None:
    """The program that reads labels is a stand-in here; the real one is in integration/cluster."""
    sif, reader = tmp_path / "worker.sif", tmp_path / "apptainer"
    sif.write_bytes(b"")
    settings = Site(root="/r", sif=str(sif), apptainer=str(reader))
    assert "the node will compare" in str(submit.check_image(settings, "0.10.0"))
    for has, fine in (("0.9.9", False), ("0.10.0", True), ("0.11", True), ("", False)):
        label = f'{{"org.opencontainers.image.version": "{has}"}}'
        told = f'{{"data": {{"attributes": {{"labels": {label}}}}}}}'
        reader.write_text(f"#!/bin/sh\necho '{told}'\n")
        reader.chmod(0o755)
        if fine:
            assert submit.check_image(settings, "0.10.0") is None
            continue
        with pytest.raises(JobspecError, match=r"the code is 0\.10\.0"):
            submit.check_image(settings, "0.10.0")
