"""What the worker's Python says about its machine."""

from __future__ import annotations

import sys

import msgspec
import pytest

from jobspec.records.answers import MachineAnswer, MachineFact, VllmAnswer
from tests.support.commands import run_checked
from tests.support.nvml import pretend_gpus
from worker.host import machine, versions, vllm_package


def by_subject() -> dict[str, MachineFact]:
    return {fact.subject: fact for fact in machine.facts()}


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which only what a test changes is amiss."""
    monkeypatch.setattr(versions, "cuda_of_torch", lambda: (13, 0))
    monkeypatch.setattr(machine, "installed_version", lambda name: "1.0")
    monkeypatch.setattr(vllm_package, "examine", lambda: VllmAnswer(installed=True))


def test_the_program_prints_its_answer_without_loading_torch():
    code = """
import runpy, sys
runpy.run_module("worker.host.machine", run_name="__main__")
assert "torch" not in sys.modules
"""
    answer = run_checked([sys.executable, "-c", code])
    facts = msgspec.json.decode(answer, type=MachineAnswer).facts
    assert [fact.subject for fact in facts][:3] == ["processors", "packages", "GPU"]
    assert len(facts) <= 7  # the doctor adds three, and ten lines are wanted


def test_without_gpus_nothing_is_amiss(monkeypatch: pytest.MonkeyPatch):
    pretend_gpus(monkeypatch, 0)
    facts = by_subject()
    assert "none" in facts["GPU"].message
    assert "Transformers on the processors" in facts["engine"].message
    assert all((fact.severity, fact.command) == ("ok", None) for fact in facts.values())


def test_gpus_are_counted_with_their_memory(monkeypatch: pytest.MonkeyPatch):
    pretend_gpus(monkeypatch, 4)
    facts = by_subject()
    assert facts["GPU"].message == "4 × NVIDIA H100 80GB HBM3 (80.0 GiB)"
    assert facts["engine"].message == "vLLM 1.0"
    assert {fact.severity for fact in facts.values()} == {"ok"}


def test_every_gap_has_a_command(monkeypatch: pytest.MonkeyPatch):
    pretend_gpus(monkeypatch, used_gib=9.0, processes=(7,), driver=12040)
    monkeypatch.setattr(versions, "unmet_requirements", lambda: ["trl is 1.2, not >=1.16", "x"])
    missing = {"liger-kernel": None, "flash-attn-3": None, "flash-attn-4": None}
    monkeypatch.setattr(machine, "installed_version", lambda name: missing.get(name, "1.0"))
    broken = VllmAnswer(installed=True, problem="`vllm` was built for torch 2.10", command="pip it")
    monkeypatch.setattr(vllm_package, "examine", lambda: broken)
    facts = by_subject()
    gaps = {subject: fact for subject, fact in facts.items() if fact.severity != "ok"}
    assert gaps.keys() == {"packages", "gpu memory", "driver", "kernels", "engine"}
    assert all(fact.command for fact in gaps.values())
    assert facts["packages"].message == "trl is 1.2, not >=1.16 and 1 more"
    monkeypatch.setattr(vllm_package, "examine", lambda: VllmAnswer(installed=False, command="c"))
    assert "vLLM is faster" in by_subject()["engine"].message
