"""Scores one model on our benchmarks: prompts, context check, chunks, lm-eval, scores."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from jobspec.benchmarks.question_file import QuestionSet
from jobspec.errors import ModelError, TemplateError
from jobspec.records import evaluation
from jobspec.records.evaluation import AskedQuestion, Generation, QuestionScore, SamplingPlan
from jobspec.records.reports import GenerationTiming, ScoringProtocol
from jobspec.results.benchmark_scores import BenchmarkResult, make_result
from jobspec.spec.benchmark_settings import sampling as sampling_settings
from jobspec.spec.schema import EvalSpec
from jobspec.storage import fs
from jobspec.storage.layout import EvaluationPaths
from worker.evaluation import scoring
from worker.evaluation.benchmark_run import BenchmarkRun
from worker.evaluation.failures import kept_apart
from worker.evaluation.fingerprint import fingerprint
from worker.evaluation.lm_eval_model import Prompts, Samples, SamplingLM
from worker.evaluation.lm_eval_task import TaskSettings, make_task
from worker.grading.math_grader import MathGrader
from worker.grading.math_reader import READER
from worker.imports.quiet import quiet
from worker.inference.engine import Engine, EngineChoice
from worker.inference.pool import start_engine
from worker.inference.requests import ResponseRules, Sampling
from worker.samples.generation import GeneratedSamples, generate, plan_chunks, refuse_copies
from worker.samples.sample_store import SampleStore
from worker.samples.schedule import BenchmarkWork
from worker.samples.sharing import NO_HELP, ChunkShare, HelpPlaces
from worker.samples.stopping import StopDecision
from worker.thinking import think_tags


class ModelEvaluation:
    """Scores one model. Writes to `directory`; `earlier` are those of older attempts.

    `help` says where samples are shared with idle workers.

    Attributes:
        failures: the error of each benchmark that has no score.
    """

    def __init__(
        self,
        job: str,
        settings: EvalSpec,
        choice: EngineChoice,
        tokenizer: Any,
        *,
        directory: Path,
        earlier: Sequence[Path] = (),
        help: HelpPlaces = NO_HELP,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.job = job
        self.settings = settings
        self.choice = choice
        self.tokenizer = tokenizer
        self.directory = directory
        self.earlier = earlier
        self.help = help
        self.report = report
        self.tags = think_tags(settings.think_end_token)
        self._engine: Engine | None = None
        self.failures: dict[str, Exception] = {}
        self.timing = GenerationTiming()
        self._runs: dict[str, BenchmarkRun] = {}

    def run(self, benchmarks: Sequence[QuestionSet], math: MathGrader) -> list[BenchmarkResult]:
        """Score the model on our benchmarks in one call of lm-eval, without those that fail."""
        import lm_eval
        from lm_eval.tasks import TaskManager

        if not benchmarks:
            return []
        self._runs = {each.name: self._run(each) for each in benchmarks}
        draw = partial(self._draw, math=math)
        lm = SamplingLM(self.tokenizer, self.settings.chat_template_kwargs, draw)
        chat = self._chat()
        opens = chat and lm.opens_think(self.tags)
        for run in self._runs.values():
            run.opens_think = opens
        with quiet():
            # A decorator hides the signature from type checkers.
            simple_evaluate: Any = lm_eval.simple_evaluate
            simple_evaluate(
                model=lm,
                tasks=[self._task(run, math) for run in self._runs.values()],
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
                bootstrap_iters=0,
                log_samples=False,
                task_manager=TaskManager(include_defaults=False),
            )
        results: list[BenchmarkResult] = []
        for name, run in self._sound().items():
            with kept_apart(self.failures, name):
                results.append(self._result(run))
        return results

    def close(self) -> None:
        """Free the engine's memory."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def engine(self, samples: int, length: int) -> Engine:
        """Start the engine, or a pool of engines, that generates `samples` samples.

        Args:
            length: tokens of the longest prompt with its answer.
        """
        self.close()
        self._engine = start_engine(self._sized(length), self.tokenizer, samples=samples)
        return self._engine

    def share(self, length: int) -> ChunkShare | None:
        """What lets idle workers generate some of the samples, as `engine` would."""
        own = self.help.own
        return None if own is None else ChunkShare(own, self._sized(length), self.help.silent)

    def _sized(self, length: int) -> EngineChoice:
        return msgspec.structs.replace(self.choice, context=min(length, self.choice.context))

    def key(self, *parts: object) -> str:
        """A hash of everything that shapes a sample: attempts with the same key share samples."""
        weights = self.choice.weights
        model = [fingerprint(Path(weights.directory)), self.choice.name, weights.shaping_fields()]
        return hashlib.sha256(msgspec.json.encode([self.job, *model, *parts])).hexdigest()

    def directory_of(self, benchmark: str) -> Path:
        """Where a benchmark's samples and scores are written."""
        return self.directory / benchmark.replace("/", "_")

    def earlier_of(self, benchmark: str) -> list[Path]:
        """The same directory of older attempts, newest first."""
        return [directory / benchmark.replace("/", "_") for directory in self.earlier]

    def add_timing(self, drawn: GeneratedSamples) -> None:
        """Count what was generated."""
        self.timing = GenerationTiming(
            tokens=self.timing.tokens + drawn.tokens,
            generate_s=round(self.timing.generate_s + drawn.seconds, 3),
        )

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

    def _run(self, questions: QuestionSet) -> BenchmarkRun:
        settings = sampling_settings(self.settings, questions.name)
        limit = settings.pop("limit")
        shots = settings.pop("num_fewshot")
        k = settings.pop("avg_k")
        rule = settings.pop("stop_rule")
        sampling = Sampling(**settings)
        if limit is not None:
            questions = msgspec.structs.replace(questions, questions=questions.questions[:limit])
        task = TaskSettings(
            k=k,
            protocol=self.settings.protocol,
            num_fewshot=shots,
            generation_kwargs=msgspec.structs.asdict(sampling),
        )
        return BenchmarkRun(questions, task, sampling, rule if k > 1 else None)

    def _task(self, run: BenchmarkRun, math: MathGrader) -> Any:
        name = run.benchmark.name

        def judge_task(samples: Mapping[str, Sequence[Generation]]) -> Sequence[QuestionScore]:
            if name not in self.failures:
                rows = [(question, samples[question.id]) for question in run.asked]
                with kept_apart(self.failures, name):
                    run.scores = scoring.score(run.benchmark, run.plan, rows, math)
            if name in self.failures:  # lm-eval needs a score for each question
                return [QuestionScore(id=each, answer="", samples=()) for each in samples]
            return run.scores

        # lm-eval needs a metric. The numbers are made from the scores, as `rescore` makes them.
        return make_task(run.questions, run.settings, {"questions": len}, judge_task)

    def _sound(self) -> dict[str, BenchmarkRun]:
        """The runs of benchmarks that have not failed."""
        return {name: run for name, run in self._runs.items() if name not in self.failures}

    def _draw(self, prompts: Prompts, math: MathGrader) -> Samples:
        """Make or find every sample of every benchmark, all of them in one list of run."""
        ends: dict[str, int] = {}
        for name, texts in prompts.items():
            with kept_apart(self.failures, name):
                self._tokenize(self._runs[name], texts)
                ends[name] = self._check_context(self._runs[name])
        runs = self._sound()
        work = [self._work(run, math) for run in runs.values()]
        if work:
            longest = max(ends.values())
            drawn = generate(
                lambda samples: self.engine(samples, longest),
                work,
                self.report,
                self.share(longest),
            )
            self.add_timing(drawn)
            samples = dict(zip(runs, drawn.samples, strict=True))
            for run, each, discarded in zip(runs.values(), work, drawn.discarded, strict=True):
                if each.stop is not None:
                    run.note_stop(each, discarded)
        else:
            samples = {}
        for name, rows in samples.items():
            with kept_apart(self.failures, name):
                refuse_copies(rows, runs[name].sampling)
        return samples | {name: self._blank(name) for name in prompts if name not in samples}

    def _blank(self, benchmark: str) -> dict[str, list[Generation]]:
        """What lm-eval gets for a benchmark that was not asked."""
        run = self._runs[benchmark]
        return {
            question.id: [
                Generation(question=question.id, sample=i, seed=0, text="", tokens=0, finish="stop")
                for i in range(run.settings.k)
            ]
            for question in run.questions.questions
        }

    def _tokenize(self, run: BenchmarkRun, texts: Mapping[str, str]) -> None:
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
                reading=questions[name].reading,
            )
            for name in names
        ]

    def _check_context(self, run: BenchmarkRun) -> int:
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

    def _work(self, run: BenchmarkRun, math: MathGrader) -> BenchmarkWork:
        """What to generate for a benchmark, with its store open."""
        store, rule = self._open(run), run.stop_rule
        if rule is None:
            return BenchmarkWork(store, run.chunks)

        def judge_round(rows: Sequence[Generation]) -> list[bool] | None:
            found = {row.question: [row] for row in rows}
            asked = [(question, found[question.id]) for question in run.asked]
            with kept_apart(self.failures, run.benchmark.name):
                scores = scoring.score(run.benchmark, run.plan, asked, math)
                return [score.samples[0].right for score in scores]
            return None

        stop = StopDecision(rule.half_width, len(run.asked), run.chunks, judge_round)
        return BenchmarkWork(store, run.chunks, stop)

    def _open(self, run: BenchmarkRun) -> SampleStore:
        """Plan the chunks of a benchmark and open its store of samples."""
        name = run.benchmark.name
        longest = max(question.prompt_tokens for question in run.asked)
        rows = self.choice.rows(run.sampling, longest)
        run.rules = ResponseRules(
            think_end_token=self.settings.think_end_token,
            opens_think=run.opens_think,
            stops=run.settings.stops(run.benchmark),
        )
        run.chunks = plan_chunks(
            self.job,
            name,
            run.prompts,
            run.settings.k,
            run.sampling,
            rows=rows,
            rules=run.rules,
            by_round=run.stop_rule is not None,
        )
        parts = [run.sampling, run.settings.k, rows, sorted(run.prompts.items())]
        parts += [run.rules] if run.rules.stops else []  # without them the rules change no text
        parts += ["by round"] if run.stop_rule is not None else []
        run.plan = SamplingPlan(
            key=self.key(name, *parts),
            benchmark=name,
            k=run.settings.k,
            chunks=len(run.chunks),
            think_end_token=self.settings.think_end_token,
            protocol=self._protocol(run),
        )
        store = SampleStore(
            self.directory_of(name), run.plan, self.earlier_of(name), self.help.earlier
        )
        store.open(run.asked)
        return store

    def _protocol(self, run: BenchmarkRun) -> ScoringProtocol:
        """The settings that a score depends on; they are stored with it."""
        texts = msgspec.json.encode([[question.id, question.prompt] for question in run.asked])
        protocol = ScoringProtocol(
            protocol=self.settings.protocol,
            shots=run.settings.shots(run.benchmark),
            chat_template=self._chat(),
            chat_template_kwargs=self.settings.chat_template_kwargs,
            prompt_sha256=hashlib.sha256(texts).hexdigest(),
            k=run.settings.k,
            stop_rule=run.early_stop,
            **msgspec.structs.asdict(run.sampling),
            think_end_token=self.settings.think_end_token,
            opens_think=run.opens_think,
            stop_after_thinking=run.settings.stops(run.benchmark),
            answer_reader=READER,
            questions=len(run.asked),
            benchmark_sha256=run.questions.sha256,
            lm_eval_version=importlib.metadata.version("lm_eval"),
            math_verify_version=importlib.metadata.version("math-verify"),
        )
        return self.choice.add_facts(protocol)

    def _result(self, run: BenchmarkRun) -> BenchmarkResult:
        """The numbers of a benchmark. Publishes the scores beside the samples."""
        paths = EvaluationPaths(self.directory_of(run.benchmark.name))
        fs.publish(paths.scores, evaluation.to_lines(run.scores))
        if self.settings.log_samples:
            fs.publish(paths.samples, evaluation.to_lines(evaluation.samples(paths.dir)))
        return make_result(run.benchmark, run.plan, run.scores)
