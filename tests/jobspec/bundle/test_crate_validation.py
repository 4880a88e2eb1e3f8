"""Bundles in the eyes of the RO-Crate validator (roc-validator), and broken ones.

It knows RO-Crate 1.2. Its Process Run Crate 0.5 builds on RO-Crate 1.1, so of that profile only its
own rules are asked for. It would fetch JSON-LD contexts; here it gets them from files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobspec.bundle import write_bundle
from jobspec.bundle.crate import PROFILE, SPECIFICATION
from jobspec.records.attempt import Energy
from jobspec.storage.layout import BundlePaths
from tests.support.bundles import job_of, unpack
from tests.support.commands import environment
from tests.support.costs import KWH, interrupted_then_finished
from tests.support.paths import fast_dir
from tests.support.queues import queue_at

# An environment of its own, because the validator needs an older rich.
ENVIRONMENT = os.environ.get("JOBSPEC_TEST_ROCRATE")
VALIDATE = """
import io, json, socket, sys
from importlib import resources

import requests
from rocrate_validator import models, services

# The package rocrate has the context of RO-Crate 1.3, which has the terms of 1.2.
terms = json.loads(resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_text())
wfrun = "https://w3id.org/ro/terms/workflow-run"
contexts = {
    "https://w3id.org/ro/crate/1.2/context": terms,
    "https://w3id.org/ro/crate/1.1/context": terms,
    f"{wfrun}/context": {"@context": {"resourceUsage": f"{wfrun}#resourceUsage"}},
}

class Files(requests.adapters.BaseAdapter):
    def send(self, request, **named):
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.headers["Content-Type"] = "application/ld+json"
        response.raw = io.BytesIO(json.dumps(contexts[request.url]).encode())
        return response

    def close(self):
        pass

def refuse(*args):
    raise OSError(f"asked for the network: {args}")

requests.Session.get_adapter = lambda session, url: Files()
socket.socket.connect = socket.getaddrinfo = refuse
found = {}
for crate in sys.argv[1:]:
    found[crate] = []
    for profile, inherits in (("ro-crate-1.2", True), ("process-run-crate", False)):
        settings = models.ValidationSettings(
            rocrate_uri=crate,
            profile_identifier=profile,
            requirement_severity="REQUIRED",
            disable_inherited_profiles_issue_reporting=not inherits,
            no_cache=True,
        )
        result = services.validate(settings)
        checked = {each.identifier.rpartition("_")[0] for each in result.executed_checks}
        assert profile in " ".join(checked), checked
        issues = result.get_issues()
        found[crate] += [f"{each.check.identifier}: {each.message}" for each in issues]
json.dump(found, sys.stdout)
"""

Graph = dict[str, dict[str, Any]]


def no_date(graph: Graph) -> None:
    del graph["./"]["datePublished"]


def no_license(graph: Graph) -> None:
    del graph["./"]["license"]


def absent_file(graph: Graph) -> None:
    graph["./"]["hasPart"].append({"@id": "absent.json"})
    graph["absent.json"] = {"@id": "absent.json", "@type": "File", "name": "absent"}


def action_without_tool(graph: Graph) -> None:
    del graph["#attempt-1-train"]["instrument"]


# By the name of a directory: the validator reads a path with spaces wrongly, and finds nothing.
BROKEN: dict[str, tuple[Callable[[Graph], None], str]] = {
    "no-date": (no_date, "ro-crate-1.2_"),
    "no-license": (no_license, "ro-crate-1.2_"),
    "a-file-that-is-not-there": (absent_file, "ro-crate-1.2_"),
    "an-action-without-its-tool": (action_without_tool, "process-run-crate"),
}


def broken(bundle: BundlePaths, target: Path, change: Callable[[Graph], None]) -> Path:
    """A copy of a bundle with another graph."""
    shutil.copytree(bundle.dir, target)
    crate = json.loads(bundle.crate.read_bytes())
    graph = {each["@id"]: each for each in crate["@graph"]}
    change(graph)
    copy = BundlePaths(target).crate
    copy.write_text(json.dumps(crate | {"@graph": list(graph.values())}))
    return target


@pytest.mark.skipif(ENVIRONMENT is None, reason="needs roc-validator in $JOBSPEC_TEST_ROCRATE")
def test_the_validator_accepts_bundles_and_finds_what_is_broken(tmp_path: Path) -> None:
    with fast_dir() as directory:
        queue = queue_at(directory / "root")
        demo = write_bundle.write(job_of(unpack(tmp_path / "given"), queue), tmp_path / "demo")
        costly = interrupted_then_finished(queue, Energy(gpu_j=KWH, cpu_j=KWH))
        whole = [demo.directory, write_bundle.write(costly, tmp_path / "costly").directory]
    bundle = BundlePaths(Path(demo.directory))
    crate = json.loads(bundle.crate.read_bytes())["@graph"]
    stated = {each["@id"]: each.get("conformsTo", {}).get("@id") for each in crate[:2]}
    assert stated == {BundlePaths.CRATE: SPECIFICATION, "./": PROFILE}
    copies = {name: broken(bundle, tmp_path / name, change) for name, (change, _) in BROKEN.items()}
    done = subprocess.run(
        [f"{ENVIRONMENT}/bin/python", "-c", VALIDATE, *whole, *map(str, copies.values())],
        env=environment(PYTHONPATH="", PYTHONWARNINGS="ignore"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [found[name] for name in whole] == [[], []]
    for name, copy in copies.items():
        rule = BROKEN[name][1]
        assert any(issue.startswith(rule) for issue in found[str(copy)]), (name, found[str(copy)])
