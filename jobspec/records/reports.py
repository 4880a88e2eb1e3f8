"""The report that each phase publishes when it finishes, and an attempt's `manifest.json`.

A field that defaults to `UNSET` is left out of the file where it does not apply.
"""

from __future__ import annotations

from typing import Any

import msgspec

from jobspec.records.base import UNSET, Record, UnsetType
from jobspec.records.mixture import SourceReport, TokenCounts, TrainedSource


class DroppedRow(Record, frozen=True, kw_only=True):
    """A row that cannot be trained on.

    Attributes:
        row: its number in its file, counted from 1.
        source: the name of its source in a mixture.
    """

    row: int
    kind: str
    reason: str
    source: str | UnsetType = UNSET


class DroppedExample(DroppedRow, frozen=True, kw_only=True):
    """The first row that was dropped for one kind of reason, with its text as rendered."""

    text: str = ""


class UnrenderedField(Record, frozen=True, kw_only=True):
    """A field of rows or messages whose text the chat template does not render.

    Attributes:
        source: the name of the source that has the first such row, in a mixture.
    """

    name: str
    rows: int
    first_row: int
    source: str | UnsetType = UNSET


class DatasetReport(Record, frozen=True, kw_only=True):
    """`prepared.json` in the dataset cache: which rows of the data are used. Lengths in tokens.

    Attributes:
        rows_kept: different rows that are used; in a mixture, `rows_train` and all that is counted
            of rows to train on is of an epoch, with repeats.
        dropped: number of rows by kind of reason.
        first_dropped: the first row of each kind; in a mixture, of each kind and source.
        over_long_tokens: of the rows that are dropped because they are too long.
        unrendered: fields with text that is not rendered and that the spec does not ignore.
        length_percentiles: `p50`, `p90`, `p99` and `max`.
        file_sizes: bytes of each file of the cache, by its relative path.
    """

    rows_in: int = 0
    rows_selected: int = 0
    rows_kept: int = 0
    rows_train: int = 0
    rows_eval: int = 0
    dropped: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    over_long_tokens: int = 0
    first_dropped: tuple[DroppedExample, ...] = ()
    unrendered: tuple[UnrenderedField, ...] = ()
    prompts: int = 0
    prompts_eval: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    train: TokenCounts = TokenCounts()
    eval: TokenCounts = TokenCounts()
    length_percentiles: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    rows_without_thinking: int = 0
    rows_with_earlier_thinking_dropped: int = 0
    think_end_token: str = ""
    rows_with_think_end_token: int = 0
    data_sha256: str = ""
    tokenizer_sha256: str = ""
    template_sha256: str = ""
    inference_chat_template: str = ""
    think_end_in_template: bool = False
    template_writes_date: bool = False
    eos_token_ids: tuple[int, ...] = ()
    file_sizes: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    sources: tuple[SourceReport, ...] = ()


class Overlap(Record, frozen=True, kw_only=True):
    """How many questions of a benchmark occur in a data file; rows are counted from 1.

    Attributes:
        judged: questions that are long enough to be looked for.
        examples: pairs of a question's id and the first row with it.
        rows: the first 1,000 rows with a question. In a mixture, rows are counted on from file to
            file.
        first_source: index of the file with the first of these rows.
        first_row: the number of that row in its file.
    """

    questions: int
    judged: int
    questions_found: int
    rows_found: int
    examples: tuple[tuple[str, int], ...] = ()
    rows: tuple[int, ...] = ()
    first_source: int = 0
    first_row: int = 0


class PrepareReport(DatasetReport, frozen=True, kw_only=True):
    """`prepare.json`: the rows that an attempt trains on and where they are.

    Attributes:
        dir: their directory in the dataset cache, relative to the root.
        overlap: with each benchmark of the spec; null where its questions are not available.
    """

    key: str = ""
    dir: str = ""
    cached: bool = False
    overlap: dict[str, Overlap | None] = msgspec.field(default_factory=dict[str, Overlap | None])
    seconds: float = 0.0


class Passes(Record, frozen=True, kw_only=True):
    """Forward passes per epoch on one device, without and with packing."""

    unpacked: int | None = None
    packed: int | None = None


class RowReport(Record, frozen=True, kw_only=True):
    """The answer of the row check (`--check`), which runs before a spec is enqueued.

    Lengths are in tokens; `longest_micro_batch` is that of one device.
    """

    rows_in: int = 0
    rows_selected: int = 0
    rows_train: int = 0
    rows_eval: int = 0
    dropped: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    over_long_tokens: int = 0
    first_dropped: tuple[DroppedRow, ...] = ()
    prompts: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    length_percentiles: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    train: TokenCounts = TokenCounts()
    passes: Passes = Passes()
    longest_micro_batch: int = 0
    rows_without_thinking: int = 0
    rows_with_think_end_token: int = 0
    think_end_in_template: bool = False
    overlap: dict[str, Overlap | None] = msgspec.field(default_factory=dict[str, Overlap | None])
    cached: bool = False
    seconds: float = 0.0
    sources: tuple[SourceReport, ...] = ()

    @classmethod
    def of(cls, report: PrepareReport, passes: Passes, longest_micro_batch: int) -> RowReport:
        """The row check's part of a prepare report, with what it counted itself."""
        plain = msgspec.structs.replace(report, first_dropped=())  # an UNSET source is no value
        part = msgspec.convert(plain, cls, from_attributes=True)
        dropped = (
            DroppedRow(row=r.row, kind=r.kind, reason=r.reason, source=r.source)
            for r in report.first_dropped
        )
        return msgspec.structs.replace(
            part,
            first_dropped=tuple(dropped),
            passes=passes,
            longest_micro_batch=longest_micro_batch,
        )


class ConvertReport(Record, frozen=True, kw_only=True):
    """`convert.json`: the number of ranks that the newest checkpoint now fits."""

    world_size: int


class TrainingEngine(Record, frozen=True, kw_only=True):
    """What trained the model: the DeepSpeed engine, its optimizer and kernels.

    Attributes:
        rows: how the rows of a micro-batch were laid out, `packed` or `padded`.
        rows_reason: why not packed.
        weights: of the whole model; shared weights count once.
        unused: parts of the model that text does not run through; they are not trained.
        micro_batch_tokens: the most tokens of a micro-batch; null if its rows are counted.
        recomputed_layers: how many layers gradient checkpointing recomputed.
        compiled: whether the layers were compiled by torch.compile.
        compiled_reason: why they were not, although the spec asked for it.
        float8: how many linear layers multiplied in float8, and by what; null if none did.
    """

    name: str = msgspec.field(default="", name="class")
    zero_stage: int = 0
    world_size: int = 1
    device: str = ""
    optimizer: str = ""
    dtype: str = ""
    kernels: str | None = None
    attn_implementation: str | None = None
    attention: str | None = None
    rows: str | None = None
    rows_reason: str | None = None
    weights: int | None = None
    trained_weights: int | None = None
    unused: tuple[str, ...] = ()
    micro_batch_tokens: int | None = None
    recomputed_layers: int | None = None
    compiled: bool = False
    compiled_reason: str | None = None
    float8: str | None = None
    deepspeed_config: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class MemoryUse(Record, frozen=True, kw_only=True):
    """Peak memory of a rank as it was predicted and as it was measured; `parts` in GiB."""

    predicted_gib: float
    measured_gib: float
    ratio: float
    parts: dict[str, float] = msgspec.field(default_factory=dict[str, float])


class Resumed(Record, frozen=True, kw_only=True):
    """Where an attempt resumed training: the checkpoint that `attempt` wrote at `step`."""

    attempt: int | None = None
    step: int | float = 0


class RankChange(Record, frozen=True, kw_only=True):
    """A change of the number of ranks, and what converting the checkpoint took (0 if it fitted)."""

    step: int
    from_ranks: int
    to_ranks: int
    seconds: float = 0.0
    size: int = 0


class LossChange(Record, frozen=True, kw_only=True):
    """A loss before and after training."""

    first: float
    last: float


class TrainReport(Record, frozen=True, kw_only=True):
    """`train.json`: what trained the model and how it went, over all attempts of the job.

    Attributes:
        model_dir: relative to the attempt.
        eval_loss_first: the held-out loss of the untrained model.
        loss_first: the training loss of the first step; `loss` is that of the last one.
        train_s: seconds in training steps.
        saves_s: seconds that each checkpoint took to write.
        ended_epochs: epochs whose held-out loss and weights are done.
        sources: of a mixture, by name.
    """

    model_dir: str = ""
    steps: int = 0
    epochs: float | None = None
    engine: TrainingEngine = TrainingEngine()
    eval_loss_first: float | None = None
    eval_loss: float | None = None
    loss_first: float | None = None
    loss: float | None = None
    tokens: int = 0
    trained_tokens: int = 0
    train_s: float = 0.0
    peak_memory_gib: float | None = None
    resumed_from: Resumed | None = None
    saves_s: tuple[float, ...] = ()
    ended_epochs: int = 0
    conversions: tuple[RankChange, ...] = ()
    memory: MemoryUse | None = None
    tokens_per_second: float | None = None
    sources: dict[str, TrainedSource] = msgspec.field(default_factory=dict[str, TrainedSource])

    @property
    def loss_rise(self) -> LossChange | None:
        """The change of the loss if training made it higher; else None.

        It is the held-out loss if that was measured, else the loss of the training steps.
        """
        pairs = ((self.eval_loss_first, self.eval_loss), (self.loss_first, self.loss))
        for first, last in pairs:
            if first is not None and last is not None:
                return LossChange(first=first, last=last) if last > first else None
        return None

    @property
    def tokens_per_second_per_device(self) -> float | None:
        if self.tokens_per_second is None:
            return None
        return self.tokens_per_second / max(1, self.engine.world_size)


class EarlyStop(Record, frozen=True, kw_only=True):
    """The rule by which sampling could end before `k_at_most` samples a question."""

    half_width: float
    k_at_most: int


class ScoringProtocol(Record, frozen=True, kw_only=True):
    """How a benchmark was measured. Fields of the other protocols are left out."""

    protocol: str | UnsetType = UNSET
    task_version: float | str | UnsetType | None = UNSET
    shots: int | UnsetType | None = UNSET
    chat_template: bool | UnsetType = UNSET
    chat_template_kwargs: dict[str, Any] | UnsetType = UNSET
    prompt_sha256: str | UnsetType = UNSET
    k: int | UnsetType = UNSET
    stop_rule: EarlyStop | UnsetType = UNSET
    max_gen_toks: int | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: int | UnsetType | None = UNSET
    min_p: float | UnsetType | None = UNSET
    presence_penalty: float | UnsetType | None = UNSET
    think_end_token: str | UnsetType | None = UNSET
    opens_think: bool | UnsetType = UNSET
    stop_after_thinking: tuple[str, ...] | UnsetType = UNSET
    answer_reader: int | UnsetType = UNSET
    generation_kwargs: dict[str, Any] | UnsetType | None = UNSET
    questions: Any | UnsetType = UNSET  # lm-eval reports an object with two counts
    benchmark_sha256: str | UnsetType = UNSET
    lm_eval_version: str | UnsetType = UNSET
    math_verify_version: str | UnsetType = UNSET
    metric: str | UnsetType = UNSET
    higher_is_better: bool | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    engine_versions: dict[str, str] | UnsetType = UNSET
    kv_cache_dtype: str | UnsetType = UNSET
    enable_prefix_caching: bool | UnsetType = UNSET
    deterministic: bool | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    device: str | UnsetType = UNSET


class GenerationTiming(Record, frozen=True, kw_only=True):
    """Tokens that an evaluation generated, and the seconds it took to generate them."""

    tokens: int = 0
    generate_s: float = 0.0


class ModelScores(Record, frozen=True, kw_only=True):
    """The scores of one of a run's models: `epoch-<n>` or `final`.

    Attributes:
        best_of: the metrics for which no other model of the run is better.
    """

    name: str = ""
    epoch: float | None = None
    metrics: dict[str, float | None] = msgspec.field(default_factory=dict[str, float | None])
    best_of: tuple[str, ...] = ()


class EvalReport(Record, frozen=True, kw_only=True):
    """`eval.json`: the scores of the final model.

    Attributes:
        metrics: named as in W&B: `bench/aime24/avg_at_32`.
        main: the metric of each benchmark that counts as its score.
        intervals: 95 % intervals of the main metrics, by benchmark: over `questions`, over
            `samples`.
        checkpoints: the scores of all models, where epochs were scored too.
        failed: in `eval/report.json` of an attempt that failed, the benchmarks without a score and
            why they have none.
    """

    metrics: dict[str, float | None] = msgspec.field(default_factory=dict[str, float | None])
    main: tuple[str, ...] = ()
    intervals: dict[str, dict[str, tuple[float | None, float | None]]] = msgspec.field(
        default_factory=dict[str, dict[str, tuple[float | None, float | None]]]
    )
    protocol: dict[str, ScoringProtocol] = msgspec.field(default_factory=dict[str, ScoringProtocol])
    timing: GenerationTiming = GenerationTiming()
    seconds: float = 0.0
    checkpoints: tuple[ModelScores, ...] | UnsetType = UNSET
    failed: dict[str, str] | UnsetType = UNSET
