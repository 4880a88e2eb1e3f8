"""The files that describe a checkpoint: its manifest, and how fast the next one can be written."""

from __future__ import annotations

import msgspec

from jobspec.records.base import Record
from jobspec.records.mixture import TokenCounts, TrainedSource
from jobspec.records.reports import RankChange, Resumed


class FileDigest(Record, frozen=True, kw_only=True):
    """One file of a checkpoint: its bytes and SHA-256."""

    size: int
    sha256: str


class Conversion(Record, frozen=True, kw_only=True):
    """What it took to convert a checkpoint for any number of ranks; `size` in bytes on disk."""

    from_ranks: int
    seconds: float
    size: int


class CheckpointManifest(Record, frozen=True, kw_only=True):
    """`COMPLETE`: what a checkpoint contains, who wrote it, and with how many ranks.

    Attributes:
        group_elements: the most elements of an optimizer's group that was split; None if none was.
        moment_bits: of each of Adam's moments of a weight.
        save_s: seconds from the first byte to the last file's hash.
    """

    attempt: int
    step: int
    world: int
    zero_stage: int
    group_elements: int | None = None
    moment_bits: int = 32
    save_s: float = 0.0
    converted: Conversion | None = None
    files: dict[str, FileDigest] = msgspec.field(default_factory=dict[str, FileDigest])

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())

    @property
    def conversion_space(self) -> int:
        """Bytes that a conversion needs at its peak, in addition to the checkpoint itself.

        It writes all optimizer states twice (fragments, then whole parameters) and the rest once.
        For ZeRO-3 the converter also keeps the first rank's shard until it is trimmed. Moments in 8
        bits become float32, which doubles a shard.
        """
        shards = [file.size for name, file in self.files.items() if "optim_states" in name]
        first = max(shards, default=0) if self.zero_stage == 3 else 0
        added = 3 * sum(shards) if self.moment_bits == 8 else sum(shards)
        return self.size + added + first

    def fits(self, world: int) -> bool:
        """Whether `world` ranks can load it as it is. Unsharded states (ZeRO-0) fit any number."""
        return self.converted is not None or self.world == world or self.zero_stage == 0


class TrainingProgress(msgspec.Struct, kw_only=True):
    """What a training run has done so far, over all of its attempts; saved with each checkpoint.

    It is the only record that changes after it was made: a run counts in it.

    Attributes:
        ended_epochs: epochs whose held-out loss and weights are done, not only their steps.
        saves_s: seconds each checkpoint took to write.
        sources: of a mixture, by name.
    """

    eval_loss_first: float | None = None
    eval_loss: float | None = None
    loss_first: float | None = None
    loss: float | None = None
    tokens: int = 0
    trained_tokens: int = 0
    train_s: float = 0.0
    peak_memory_gib: float | None = None
    resumed_from: Resumed | None = None
    saves_s: list[float] = msgspec.field(default_factory=list[float])
    ended_epochs: int = 0
    conversions: list[RankChange] = msgspec.field(default_factory=list[RankChange])
    sources: dict[str, TrainedSource] = msgspec.field(default_factory=dict[str, TrainedSource])

    def add_tokens(self, source: str, counts: TokenCounts) -> None:
        """Count the rows of a source that a step trained on."""
        before = self.sources.get(source, TrainedSource())
        self.sources[source] = msgspec.structs.replace(
            before,
            rows=before.rows + counts.rows,
            tokens=before.tokens + counts.tokens,
            trained_tokens=before.trained_tokens + counts.trained_tokens,
        )

    def add_eval_loss(self, source: str, loss: float) -> None:
        """Record the held-out loss of a source; the first one is that of the untrained model."""
        before = self.sources.get(source, TrainedSource())
        field = "eval_loss_first" if before.eval_loss_first is None else "eval_loss"
        self.sources[source] = msgspec.structs.replace(before, **{field: loss})

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.train_s if self.train_s else None


class WriteSpeed(Record, frozen=True, kw_only=True):
    """The expected duration of the first save, from a checkpoint's size and a test write.

    Attributes:
        size: bytes of a checkpoint.
        bytes_per_s: of all ranks writing at once, fsync included.
    """

    size: int
    bytes_per_s: float
    save_s: float
