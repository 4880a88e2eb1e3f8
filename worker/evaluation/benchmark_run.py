"""The state of one benchmark while a model is scored on it."""

from __future__ import annotations

import msgspec

from jobspec.benchmarks.question_file import QuestionSet
from jobspec.records.base import UNSET, UnsetType
from jobspec.records.evaluation import AskedQuestion, QuestionScore, SamplingPlan
from jobspec.records.reports import EarlyStop
from jobspec.spec.schema import StopRule
from worker.evaluation.lm_eval_task import TaskSettings
from worker.inference.requests import ResponseRules, SampleChunk, Sampling
from worker.samples.schedule import BenchmarkWork


class BenchmarkRun:
    """The state of one benchmark. It is filled in step by step, as lm-eval asks for each part."""

    plan: SamplingPlan

    def __init__(
        self,
        questions: QuestionSet,
        settings: TaskSettings,
        sampling: Sampling,
        stop_rule: StopRule | None,
    ) -> None:
        self.questions = questions
        self.benchmark = questions.benchmark
        self.settings = settings
        self.sampling = sampling
        self.stop_rule = stop_rule
        self.opens_think = False
        self.rules = ResponseRules()
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.asked: list[AskedQuestion] = []
        self.chunks: list[SampleChunk] = []
        self.scores: list[QuestionScore] = []

    @property
    def early_stop(self) -> EarlyStop | UnsetType:
        """The rule as it is recorded."""
        if self.stop_rule is None:
            return UNSET
        return EarlyStop(half_width=self.stop_rule.half_width, k_at_most=self.settings.k)

    def note_stop(self, work: BenchmarkWork, discarded: int) -> None:
        """Write down how many samples the stop rule led to."""
        wanted = work.wanted()
        k = wanted[-1].round + 1
        self.plan = msgspec.structs.replace(
            self.plan,
            k=k,
            chunks=len(wanted),
            discarded=discarded,
            protocol=msgspec.structs.replace(self.plan.protocol, k=k),
        )
        work.store.finish(self.plan)
