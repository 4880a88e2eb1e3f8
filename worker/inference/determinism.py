"""What an engine needs so that a sample does not depend on what else runs: `eval.deterministic`."""

from __future__ import annotations

import os

import torch


def make_torch_deterministic() -> None:
    """Let torch add up in the same order, however many cores the machine has.

    An operation that CUDA can only do in a varying order raises RuntimeError from now on.
    Source: PyTorch's notes on reproducibility.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # a sum over several threads is split by their number


def make_vllm_deterministic() -> None:
    """Let vLLM use its batch-invariant kernels; to be called before it is imported."""
    os.environ["VLLM_BATCH_INVARIANT"] = "1"
