"""The scores of lm-eval's own tasks, once the model has answered all requests.

lm-eval reads the answers, computes the metrics and averages groups. The samples and scores of each
task are published like those of our own benchmarks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from jobspec.records import evaluation
from jobspec.records.evaluation import AskedQuestion, Generation, SampleScore, SamplingPlan
from jobspec.records.reports import ScoringProtocol
from jobspec.results.benchmark_scores import BenchmarkResult
from jobspec.spec.benchmark_settings import sampling as spec_settings
from jobspec.storage import fs
from jobspec.storage.layout import EvaluationPaths
from worker.evaluation.runner import ModelEvaluation
from worker.evaluation.scoring import after_thinking
from worker.evaluation.task_model import TaskModel, request_key
from worker.lm_eval_tasks import code_eval, task_scores
from worker.lm_eval_tasks.task_loading import TaskBenchmark
from worker.lm_eval_tasks.task_run import TaskRun, document, scored_groups, task_names
from worker.samples.generation import refuse_copies


class TaskResults:
    """Lets lm-eval score what a model answered."""

    def __init__(self, session: ModelEvaluation, model: TaskModel, *, chat: bool) -> None:
        self.session = session
        self.model = model
        self.chat = chat

    def of(self, benchmark: TaskBenchmark, runs: Sequence[TaskRun]) -> list[BenchmarkResult]:
        """A result for each group that has a score of its own, and for each task outside of them.

        Publishes samples and scores of every task.
        """
        for run in runs:
            if run.asked:
                refuse_copies(run.samples, run.sampling)
            self._fill_in(run)
        found = self._ask_lm_eval(benchmark)
        results = {run.name: self._publish(run, found) for run in runs}
        groups = scored_groups(benchmark)
        inside = {name for group in groups for name in task_names(group)}
        made = [self._group(group, results, found) for group in groups]
        return made + [result for name, result in results.items() if name not in inside]

    def _fill_in(self, run: TaskRun) -> None:
        """Give lm-eval the answers to a task's requests."""
        for name, request in run.asked.items():
            texts = [self._response(run, row) for row in run.samples[name]]
            self.model.answers[request_key(request)] = texts
        for request in run.weighed:
            row = run.likelihoods[request.doc_id or 0, request.idx]
            value = row.logprob if row.greedy is None else (row.logprob, row.greedy)
            self.model.answers[request_key(request)] = [value] * (request.repeats or 1)

    def _response(self, run: TaskRun, row: Generation) -> str:
        """What lm-eval reads: the text after thinking, up to the first stop string."""
        text = after_thinking(row, self.session.tags, opened=run.opens_think)
        if text is None:
            return ""
        if len(text) < len(row.text):  # after a think block
            text = text.lstrip()
        for stop in run.stops:
            text = text.split(stop, 1)[0]
        return text

    def _ask_lm_eval(self, benchmark: TaskBenchmark) -> Mapping[str, Any]:
        from lm_eval import evaluator

        evaluate: Any = evaluator.evaluate  # a decorator hides its signature from type checkers
        with code_eval.in_place():
            return evaluate(
                lm=self.model,
                task_dict={"tasks": benchmark.tasks, "groups": benchmark.groups},
                limit=spec_settings(self.session.settings, benchmark.name)["limit"],
                bootstrap_iters=1000,
                log_samples=True,
                apply_chat_template=self.chat,
                fewshot_as_multiturn=True,
                confirm_run_unsafe_code=True,  # in the sandbox: task_loading refuses other tasks
            )

    def _publish(self, run: TaskRun, found: Mapping[str, Any]) -> BenchmarkResult:
        """The numbers of a task. Publishes its samples and scores."""
        numbers, logged = found["results"][run.name], found["samples"][run.name]
        metric = task_scores.main_metric(numbers)
        higher = task_scores.is_higher_better(found["higher_is_better"].get(run.name), metric)
        protocol = msgspec.structs.replace(
            run.plan.protocol, metric=metric, higher_is_better=higher
        )
        paths = EvaluationPaths(self.session.directory_of(run.name))
        if not run.asked:
            self._publish_texts(run, paths)
        plan = msgspec.structs.replace(run.plan, protocol=protocol)
        fs.publish(paths.plan, msgspec.json.encode(plan) + b"\n")
        values = task_scores.values_by_question(logged)
        answers = task_scores.answers_by_question(logged, metric)
        scores = [
            task_scores.score_question(
                AskedQuestion(id=name, answer=target),
                [self._sample(run, row, answers.get(document(name))) for row in rows],
                values.get(document(name), {}),
                metric=metric,
                higher_is_better=higher,
            )
            for name, target, rows in _questions(run)
        ]
        fs.publish(paths.scores, evaluation.to_lines(scores))
        if self.session.settings.log_samples:
            fs.publish(paths.samples, evaluation.to_lines(evaluation.samples(paths.dir)))
        drawn = [sample for score in scores for sample in score.samples] if run.asked else []
        return BenchmarkResult(
            benchmark=run.name,
            metrics=task_scores.reported_metrics(numbers) | task_scores.shares(drawn),
            intervals=task_scores.intervals(numbers, metric, len(values)),
            protocol=protocol,
        )

    def _publish_texts(self, run: TaskRun, paths: EvaluationPaths) -> None:
        """Write likelihoods as questions and samples, so that `jobspec samples` shows them."""
        questions = [
            AskedQuestion(
                id=name,
                answer=run.target(requests[0]),
                prompt=str(requests[0].args[0]) if len(requests[0].args) > 1 else "",
            )
            for name, requests in run.documents.items()
        ]
        rows = [row for _, _, rows in _questions(run) for row in rows]
        fs.publish(paths.questions, evaluation.to_lines(questions))
        fs.publish(paths.generations(0), evaluation.to_lines(rows))

    def _sample(self, run: TaskRun, row: Generation, answer: str | None) -> SampleScore:
        """The facts of a sample; whether it is right is decided by the task's metric."""
        if not run.asked:
            best = max(run.texts(row.question), key=lambda text: text[1])[0].strip()
            return SampleScore(
                sample=0, right=False, answer=best, tokens=0, truncated=False, unclosed=False
            )
        text = after_thinking(row, self.session.tags, opened=run.opens_think)
        stopped = text is not None and any(stop in text for stop in run.stops)
        return SampleScore(
            sample=row.sample,
            right=False,
            answer=answer,
            tokens=row.tokens,
            truncated=row.finish == "length" and not stopped,
            unclosed=text is None,
        )

    def _group(
        self, group: Any, tasks: Mapping[str, BenchmarkResult], found: Mapping[str, Any]
    ) -> BenchmarkResult:
        """A group's own score, with those of its tasks as `<task>/<metric>`."""
        numbers, members = found["results"][group.name], [tasks[n] for n in task_names(group)]
        metric = task_scores.main_metric(numbers)
        higher = task_scores.is_higher_better(found["higher_is_better"].get(group.name), metric)
        hashes = [str(each.protocol.prompt_sha256) for each in members]
        protocol = msgspec.structs.replace(
            members[0].protocol,
            task_version=group.version,
            questions=sum(map(_count, members)),
            prompt_sha256=hashlib.sha256("".join(hashes).encode()).hexdigest(),
            metric=metric,
            higher_is_better=higher,
        )
        self._publish_group(group, protocol)
        parts = {f"{m.benchmark}/{name}": v for m in members for name, v in m.metrics.items()}
        return BenchmarkResult(
            benchmark=group.name,
            metrics=task_scores.reported_metrics(numbers) | parts,
            intervals=task_scores.intervals(numbers, metric, sum(map(_count, members))),
            protocol=protocol,
        )

    def _publish_group(self, group: Any, protocol: ScoringProtocol) -> None:
        """Write the scores of all tasks of a group, so that two evaluations can be compared."""
        scores = [
            msgspec.structs.replace(score, id=f"{name}/{score.id}")
            for name in task_names(group)
            for score in evaluation.read_scores(self.session.directory_of(name))
        ]
        paths = EvaluationPaths(self.session.directory_of(group.name))
        paths.dir.mkdir(parents=True, exist_ok=True)
        plan = SamplingPlan(key="", benchmark=group.name, k=1, chunks=0, protocol=protocol)
        fs.publish(paths.plan, msgspec.json.encode(plan) + b"\n")
        fs.publish(paths.scores, evaluation.to_lines(scores))


def _questions(run: TaskRun) -> Iterator[tuple[str, str, list[Generation]]]:
    """Each question of a task with its target and its samples."""
    for name, request in run.asked.items():
        yield name, run.target(request), run.samples[name]
    for name, requests in ({} if run.asked else run.documents).items():
        row = task_scores.likelihoods_as_text(name, run.texts(name))
        yield name, run.target(requests[0]), [row]


def _count(result: BenchmarkResult) -> int:
    """The number of a task's questions."""
    questions = result.protocol.questions
    return questions if isinstance(questions, int) else 0
