"""Scores one model on our benchmarks: prompts, context check, chunks, lm-eval, scores."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobspec.benchmarks.question_file import QuestionSet
from jobspec.errors import ModelError, TemplateError
from jobspec.records import evaluation
from jobspec.records.evaluation import AskedQuestion, Generation, QuestionScore, SamplingPlan
from jobspec.records.reports import GenerationTiming, ScoringProtocol
from jobspec.spec.benchmark_settings import sampling as sampling_settings
from jobspec.spec.schema import EvalSpec
from jobspec.storage import fs
from jobspec.storage.layout import EvaluationPaths
from worker.evaluation import scoring
from worker.evaluation.fingerprint import fingerprint
from worker.evaluation.generation import generate, plan_chunks, refuse_copies
from worker.evaluation.lm_eval_model import Prompts, Samples, SamplingLM
from worker.evaluation.lm_eval_task import FILTER, TaskSettings, make_task
from worker.evaluation.math_grader import MathGrader
from worker.evaluation.sample_store import SampleStore
from worker.evaluation.scoring import BenchmarkResult
from worker.imports.quiet import quiet
from worker.inference import gpu_groups
from worker.inference.engine import Engine, EngineChoice
from worker.inference.pool import EnginePool
from worker.inference.requests import SampleChunk, Sampling
from worker.thinking import think_tags


class ModelEvaluation:
    """Scores one model. Writes to `directory`; `earlier` are those of older attempts."""

    def __init__(
        self,
        job: str,
        settings: EvalSpec,
        choice: EngineChoice,
        tokenizer: Any,
        *,
        directory: Path,
        earlier: Sequence[Path] = (),
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.job = job
        self.settings = settings
        self.choice = choice
        self.tokenizer = tokenizer
        self.directory = directory
        self.earlier = earlier
        self.report = report
        self.tags = think_tags(settings.think_end_token)
        self._engine: Engine | None = None
        self._length = 0
        self.timing = GenerationTiming()
        self._runs: dict[str, _BenchmarkRun] = {}

    def run(self, benchmarks: Sequence[QuestionSet], math: MathGrader) -> list[BenchmarkResult]:
        """Score the model on our benchmarks, in one call of lm-eval."""
        import lm_eval
        from lm_eval.tasks import TaskManager

        if not benchmarks:
            return []
        self._runs = {each.name: self._run(each) for each in benchmarks}
        lm = SamplingLM(self.tokenizer, self.settings.chat_template_kwargs, self._draw)
        chat = self._chat()
        opens = chat and lm.opens_think(self.tags)
        for run in self._runs.values():
            run.opens_think = opens
        with quiet():
            # A decorator hides the signature from type checkers.
            simple_evaluate: Any = lm_eval.simple_evaluate
            found = simple_evaluate(
                model=lm,
                tasks=[self._task(run, math) for run in self._runs.values()],
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
                bootstrap_iters=0,
                log_samples=False,
                task_manager=TaskManager(include_defaults=False),
            )
        return [self._result(run, found["results"][name]) for name, run in self._runs.items()]

    def close(self) -> None:
        """Free the engine's memory."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def engine(self, samples: int) -> Engine:
        """Start the engine, or a pool of engines, that generates `samples` samples."""
        self.close()
        groups = gpu_groups.groups(Path(self.choice.weights.directory))
        choice = msgspec.structs.replace(self.choice, context=self._length)
        if choice.entry.in_process_on_cpu and choice.devices == 0 and len(groups) == 1:
            self._engine = choice.load(self.tokenizer)
        else:
            self._engine = EnginePool(choice, groups, samples=samples)
        return self._engine

    def _chat(self) -> bool:
        """Whether prompts use a chat template; only the stock protocol works without one."""
        if self.tokenizer.chat_template:
            return True
        if self.settings.protocol == "stock":
            return False
        raise TemplateError(
            "the model has no chat template, and the published protocol asks in chat",
            file=self.choice.weights.directory,
            hint="give one in `model.chat_template`, or set eval.protocol to `stock`",
        )

    def _run(self, questions: QuestionSet) -> _BenchmarkRun:
        settings = sampling_settings(self.settings, questions.name)
        limit = settings.pop("limit")
        shots = settings.pop("num_fewshot")
        k = settings.pop("avg_k")
        sampling = Sampling(**settings)
        if limit is not None:
            questions = msgspec.structs.replace(questions, questions=questions.questions[:limit])
        task = TaskSettings(
            k=k,
            protocol=self.settings.protocol,
            num_fewshot=shots,
            generation_kwargs=msgspec.structs.asdict(sampling),
        )
        return _BenchmarkRun(questions, task, sampling)

    def _task(self, run: _BenchmarkRun, math: MathGrader) -> Any:
        def judge_task(samples: Mapping[str, Sequence[Generation]]) -> Sequence[QuestionScore]:
            rows = [(question, samples[question.id]) for question in run.asked]
            run.scores = scoring.score(run.benchmark, run.plan, rows, math)
            return run.scores

        return make_task(
            run.questions,
            run.settings,
            scoring.metrics(run.benchmark, run.settings.k),
            judge_task,
        )

    def _draw(self, prompts: Prompts) -> Samples:
        """Make or find every sample of every benchmark, all of them in one list of run."""
        for name, texts in prompts.items():
            self._tokenize(self._runs[name], texts)
        self._length = max(self._check_context(run) for run in self._runs.values())
        runs = list(self._runs.values())
        stores = [self._open(run) for run in runs]
        listed = [(store, run.chunks) for store, run in zip(stores, runs, strict=True)]
        drawn = generate(self.engine, listed, self.report)
        self.timing = GenerationTiming(tokens=drawn.tokens, generate_s=round(drawn.seconds, 3))
        samples = dict(zip(self._runs, drawn.samples, strict=True))
        for name, run in self._runs.items():
            refuse_copies(samples[name], run.sampling)
        return samples

    def _tokenize(self, run: _BenchmarkRun, texts: Mapping[str, str]) -> None:
        names = list(texts)
        # The chat template writes all special tokens itself.
        plain = not self._chat()
        every = [texts[name] for name in names]
        ids = self.tokenizer(every, add_special_tokens=plain, verbose=False)["input_ids"]
        run.prompts = {name: tuple(row) for name, row in zip(names, ids, strict=True)}
        questions = {question.id: question for question in run.questions.questions}
        run.asked = [
            AskedQuestion(
                id=name,
                answer=questions[name].answer,
                solution=questions[name].solution,
                prompt=texts[name],
                prompt_tokens=len(run.prompts[name]),
                opens_think=run.opens_think,
            )
            for name in names
        ]

    def _check_context(self, run: _BenchmarkRun) -> int:
        """The tokens of a benchmark's longest sequence. Raises ModelError if they do not fit."""
        longest = max(run.asked, key=lambda question: question.prompt_tokens)
        needed = longest.prompt_tokens + run.sampling.max_gen_toks
        if needed > self.choice.context:
            raise ModelError(
                f"max_gen_toks {run.sampling.max_gen_toks} and the prompt of `{longest.id}` "
                f"({longest.prompt_tokens} tokens) make {needed}; "
                f"the model's context is {self.choice.context}",
                place=f"{run.benchmark.name}: $.eval.max_gen_toks",
                hint=f"at most {self.choice.context - longest.prompt_tokens} fits",
            )
        return needed

    def _open(self, run: _BenchmarkRun) -> SampleStore:
        """Plan the chunks of a benchmark and open its store of samples."""
        name = run.benchmark.name
        longest = max(question.prompt_tokens for question in run.asked)
        rows = self.choice.rows(run.sampling, longest)
        run.chunks = plan_chunks(
            self.job, name, run.prompts, run.settings.k, run.sampling, rows=rows
        )
        run.plan = SamplingPlan(
            key=self._key(run, rows),
            benchmark=name,
            k=run.settings.k,
            chunks=len(run.chunks),
            think_end_token=self.settings.think_end_token,
            protocol=self._protocol(run),
        )
        earlier = [directory / name for directory in self.earlier]
        store = SampleStore(self.directory / name, run.plan, earlier)
        store.open(run.asked)
        return store

    def _key(self, run: _BenchmarkRun, rows: int) -> str:
        """A hash of everything that shapes a sample: attempts with the same key share samples."""
        weights = msgspec.structs.replace(self.choice.weights, directory="")
        parts = [
            self.job,
            run.benchmark.name,
            fingerprint(Path(self.choice.weights.directory)),
            self.choice.name,
            weights,
            run.sampling,
            run.settings.k,
            rows,
            sorted(run.prompts.items()),
        ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def _protocol(self, run: _BenchmarkRun) -> ScoringProtocol:
        """The settings that a score depends on; they are stored with it."""
        texts = msgspec.json.encode([[question.id, question.prompt] for question in run.asked])
        protocol = ScoringProtocol(
            protocol=self.settings.protocol,
            shots=run.settings.shots(run.benchmark),
            chat_template=self._chat(),
            chat_template_kwargs=self.settings.chat_template_kwargs,
            prompt_sha256=hashlib.sha256(texts).hexdigest(),
            k=run.settings.k,
            **msgspec.structs.asdict(run.sampling),
            think_end_token=self.settings.think_end_token,
            opens_think=run.opens_think,
            stop_after_thinking=run.settings.stops(run.benchmark),
            questions=len(run.asked),
            benchmark_sha256=run.questions.sha256,
            lm_eval_version=importlib.metadata.version("lm_eval"),
            math_verify_version=importlib.metadata.version("math-verify"),
        )
        return self.choice.add_facts(protocol)

    def _result(self, run: _BenchmarkRun, found: Mapping[str, Any]) -> BenchmarkResult:
        """lm-eval's numbers under our names. Publishes the scores beside the samples."""
        name = run.benchmark.name
        directory = self.directory / name
        fs.publish(EvaluationPaths(directory).scores, evaluation.to_lines(run.scores))
        if self.settings.log_samples:
            fs.publish(
                directory / "samples.jsonl", evaluation.to_lines(evaluation.samples(directory))
            )
        names = scoring.metrics(run.benchmark, run.settings.k)
        return BenchmarkResult(
            benchmark=name,
            metrics={metric: found[f"{metric},{FILTER}"] for metric in names},
            intervals=scoring.intervals(run.scores, run.settings.k),
            protocol=run.plan.protocol,
        )


class _BenchmarkRun:
    """The state of one benchmark. It is filled in step by step, as lm-eval asks for each part."""

    plan: SamplingPlan

    def __init__(self, questions: QuestionSet, settings: TaskSettings, sampling: Sampling) -> None:
        self.questions = questions
        self.benchmark = questions.benchmark
        self.settings = settings
        self.sampling = sampling
        self.opens_think = False
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.asked: list[AskedQuestion] = []
        self.chunks: list[SampleChunk] = []
        self.scores: list[QuestionScore] = []
