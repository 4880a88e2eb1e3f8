"""The metric `code_eval` of Hugging Face's `evaluate`, computed in a sandbox and without network.

lm-eval's code tasks (HumanEval, MBPP and others) ask `evaluate.load("code_eval")` for it when their
module is imported. The original is downloaded, and runs the code in a plain child process.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from worker.lm_eval_tasks import sandbox

_LOG_EVERY_S = 60.0  # a worker ends a phase that shows no sign of life for long


class SandboxedCodeEval:
    """The share of generated programs that pass their tests, as pass@k."""

    def __init__(self) -> None:
        self._programs = 0
        self._logged = time.monotonic()

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """The estimates of pass@k, and for each problem which of its programs pass.

        Args:
            references: for each problem, its tests as Python code.
            predictions: for each problem, the programs.

        Raises:
            BenchmarkError: there is no sandbox on this machine.
        """
        sandbox.require()
        groups = list(zip(references, predictions, strict=True))
        programs = [f"{code}\n{tests}" for tests, codes in groups for code in codes]
        passed = iter(sandbox.pass_all(programs))
        self._log(len(programs))
        outcomes = {i: [next(passed) for _ in codes] for i, (_, codes) in enumerate(groups)}
        least = min(map(len, outcomes.values()), default=0)
        return {f"pass@{j}": _pass_at(outcomes, j) for j in k if j <= least}, outcomes

    def _log(self, programs: int) -> None:
        self._programs += programs
        if time.monotonic() - self._logged > _LOG_EVERY_S:
            self._logged = time.monotonic()
            sys.stderr.write(f"eval: {self._programs} generated programs have run\n")


def _pass_at(outcomes: Mapping[int, Sequence[bool]], j: int) -> float:
    """The mean over problems of the unbiased estimate (jobspec.results.sample_statistics)."""
    each = [
        1.0 - math.comb(len(ok) - sum(ok), j) / math.comb(len(ok), j) for ok in outcomes.values()
    ]
    return math.fsum(each) / len(each)


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """Give every module that is imported meanwhile the sandboxed `code_eval`."""
    import evaluate

    load: Callable[..., Any] = evaluate.load

    def load_ours(path: str, *args: Any, **options: Any) -> Any:
        return SandboxedCodeEval() if path == "code_eval" else load(path, *args, **options)

    with mock.patch.object(evaluate, "load", load_ours):
        yield


def is_used_by(functions: Sequence[Callable[..., Any]]) -> bool:
    """Whether one of these functions is in a module that has the sandboxed `code_eval`."""
    return any(
        isinstance(value, SandboxedCodeEval)
        for function in functions
        for value in getattr(function, "__globals__", {}).values()
    )
