"""Helpers for tests of the real vLLM: its settings for a small CPU, and its processes."""

from __future__ import annotations

import psutil

# A gibibyte of key-value cache, no pinning to cores that other tests use, and no warm-up.
CPU_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def vllm_processes(parent: int) -> list[psutil.Process]:
    """The processes of vLLM's among the descendants of a process."""
    return [
        process
        for process in psutil.Process(parent).children(recursive=True)
        if "VLLM::" in _title(process)
    ]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; a zombie has."""
    return [each for each in processes if each.is_running() and _status(each) != "zombie"]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.Error:
        return "zombie"
