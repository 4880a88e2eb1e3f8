"""One task of lm-eval's: the requests it makes of a model, and what was answered.

A document of a task is a question. lm-eval makes one request for each text of it: an answer to
generate, or a given text whose likelihood is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance

from jobspec.errors import BenchmarkError
from jobspec.records.evaluation import Generation, Likelihood, SamplingPlan
from worker.inference.requests import SampleChunk, Sampling
from worker.lm_eval_tasks.task_loading import GenerationSettings, TaskBenchmark, read_kwargs

_LIKELIHOODS = 1024  # requests in a chunk that is saved


class TaskRun:
    """The state of one task. Its requests have been built.

    Args:
        task: lm-eval's.
        opens_think: whether the chat template opens a think block at the start of an answer.
    """

    plan: SamplingPlan

    def __init__(self, task: Any, *, opens_think: bool) -> None:
        self.task = task
        self.name: str = task.task_name
        self.opens_think = opens_think
        self.asked = {question_id(e): e for e in task.instances if _is_generated(e)}
        self.weighed: list[Instance] = [e for e in task.instances if not _is_generated(e)]
        self.settings = self._settings()
        self.k: int = (task.instances[0].repeats or 1) if self.asked else 1
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.chunks: list[SampleChunk] = []
        self.samples: dict[str, list[Generation]] = {}
        self.likelihoods: dict[tuple[int, int], Likelihood] = {}

    @property
    def sampling(self) -> Sampling:
        assert self.settings is not None, f"{self.name} generates nothing"
        return self.settings.sampling

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.settings is None else self.settings.stops

    @cached_property
    def documents(self) -> dict[str, list[Instance]]:
        """The requests for likelihoods by question."""
        found: dict[str, list[Instance]] = {}
        for request in self.weighed:
            found.setdefault(str(request.doc_id), []).append(request)
        return found

    def parts(self) -> Iterator[tuple[int, list[Instance]]]:
        """The requests for likelihoods in numbered chunks, each of one kind."""
        kinds = dict.fromkeys(each.request_type for each in self.weighed)
        same = [[each for each in self.weighed if each.request_type == kind] for kind in kinds]
        yield from enumerate(
            group[start : start + _LIKELIHOODS]
            for group in same
            for start in range(0, len(group), _LIKELIHOODS)
        )

    def target(self, request: Instance) -> str:
        """The expected answer to a request's question; a choice is spelled out."""
        target = self.task.doc_to_target(request.doc)
        choices = [] if self.asked else self.documents[str(request.doc_id)]
        if isinstance(target, int) and 0 <= target < len(choices):
            return str(choices[target].args[-1]).strip()
        return target if isinstance(target, str) else repr(target)

    def texts(self, question: str) -> list[tuple[str, float]]:
        """The texts of a question with their likelihoods, as natural logarithms."""
        return [
            (str(each.args[-1]), self.likelihoods[each.doc_id or 0, each.idx].logprob)
            for each in self.documents[question]
        ]

    def _settings(self) -> GenerationSettings | None:
        """How the answers are generated. Raises BenchmarkError if that differs among questions."""
        unlike = {repr(sorted(e.args[1].items())): e.args[1] for e in self.asked.values()}
        if len(unlike) > 1:
            raise BenchmarkError(
                f"lm-eval's `{self.name}` asks with several generation settings",
                place="$.eval.benchmarks",
            )
        return next((read_kwargs(self.name, kwargs) for kwargs in unlike.values()), None)


def question_id(request: Instance) -> str:
    """The id of a question: its document's number, and its own where a document has several."""
    return f"{request.doc_id}" if request.idx == 0 else f"{request.doc_id}-{request.idx}"


def document(question: str) -> int:
    """The number of a question's document."""
    return int(question.partition("-")[0])


def compute_likelihoods(model: Any, requests: Sequence[Instance]) -> Iterator[Likelihood]:
    """Ask one of lm-eval's model classes for the likelihoods of requests of one kind, in order."""
    answers = getattr(model, requests[0].request_type)(list(requests))
    for request, answer in zip(requests, answers, strict=True):
        logprob, greedy = answer if isinstance(answer, tuple | list) else (answer, None)
        yield Likelihood(
            question=str(request.doc_id),
            index=request.idx,
            logprob=float(logprob),
            greedy=None if greedy is None else bool(greedy),
        )


def scored_groups(benchmark: TaskBenchmark) -> list[Any]:
    """The groups with a score of their own that are not in another one of these."""
    scored = [group for group in benchmark.groups.values() if group.has_aggregation]
    inner = {each.name for group in scored for each in group.get_all_groups()}
    return [group for group in scored if group.name not in inner]


def task_names(group: Any) -> list[str]:
    """The tasks of a group."""
    return [task.task_name for task in group.get_all_tasks()]


def _is_generated(request: Instance) -> bool:
    return request.request_type == "generate_until"
