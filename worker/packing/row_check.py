"""Decides, on the loaded model itself, how rows may share a micro-batch, and what of it is unused.

Rows laid end to end are independent only if no layer carries anything from one to the next: linear
attention, convolutions, state-space layers, ALiBi and chunked attention may. So three short rows of
random tokens are computed alone, with the model's plain attention, and then in each layout that
could be used, best first:

- packed: end to end, by `segments` attention with `cu_seq_lens_q`;
- packed with `seq_idx`, by which some families' own kernels reset their state;
- padded: side by side, with the model's own attention.

A layout is used if logits and gradients agree with those of the rows alone and if the loss of one
row has no gradient, not even a small one, at the tokens of another. All ranks decide alike.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers

from jobspec.errors import JobspecError, ModelError
from worker.kernels import varlen_attention
from worker.packing.collate import pad, to_device
from worker.packing.model_parts import (
    called_modules,
    gathered,
    is_sharded,
    reached_weights,
    unused_parts,
)
from worker.packing.row_layout import RowLayout
from worker.packing.row_outcome import (
    RowOutcome,
    difference,
    embedded_tokens,
    leaks,
    limits,
    relative_error,
    row_loss,
    sample_weights,
)

_LENGTHS = (9, 6, 12)
# Values that a model's configuration has during the check, unless they are lower.
_SHARP = {"sliding_window": 5, "attention_chunk_size": 5, "attn_logit_softcapping": 1.0}

Agree = Callable[[bool], bool]


@dataclass(frozen=True)
class ModelCheck:
    """What the check found out about a model."""

    layout: RowLayout
    unused: tuple[str, ...] = ()


def check(model: Any, asked: str, *, device: torch.device, agree: Agree) -> ModelCheck:
    """Choose the layout of rows for a loaded model and set its attention accordingly.

    Random state, gradients and modes are as before afterwards. All ranks call it.

    Args:
        model: with its plain attention, not yet wrapped. Unsharded weights are moved to `device`.
        asked: the spec's `attn_implementation`.
        agree: whether a condition holds on all ranks.

    Raises:
        ModelError: no layout computes rows as if each were alone.
        SpecError: the requested attention kernel can't run this model here.
    """
    if not is_sharded(model):
        model.to(device)
    devices = [device] if device.type == "cuda" else []
    training = model.training
    with torch.random.fork_rng(devices), _quiet(), gathered(model, device):
        try:
            return _Check(model, device, agree).run(asked)
        finally:
            model.train(training)


def sample_line(model: Any, layout: RowLayout, device: torch.device) -> dict[str, Any]:
    """What a model is called with for a micro-batch of short rows of random tokens."""
    rows = _random_rows(model)
    line = layout.collate(rows, [row.clone() for row in rows], 0)
    line.pop("labels")
    return to_device(line, device)


class _Check:
    """One check: the model, the rows, and what both are compared by."""

    def __init__(self, model: Any, device: torch.device, agree: Agree) -> None:
        self.model = model
        self.device = device
        self.agree = agree
        self.sharded = is_sharded(model)
        self.ids = _random_rows(model)
        self.limits = limits(model.dtype)
        self.weights: list[torch.Tensor] = []
        self.reached: set[torch.Tensor] = set()

    def run(self, asked: str) -> ModelCheck:
        """Compute the rows alone, then in each layout until one agrees."""
        default = self.model.config._attn_implementation
        self.model.eval()
        with _sharpened(self.model):
            with called_modules() as called:
                alone = self._reference(default)
            if not self.agree(all(bool(logits.isfinite().all()) for logits in alone.logits)):
                raise ModelError(
                    "the model computes logits that are not finite, before any training",
                    place="$.model.name",
                    hint="its weights are damaged, or model.dtype has too small a range for them",
                )
            layout = self._choose(asked, default, alone)
        varlen_attention.forget_runs()
        return ModelCheck(layout, unused_parts(self.model, called, self.reached))

    def _choose(self, asked: str, default: str, alone: RowOutcome) -> RowLayout:
        """The first layout that agrees with the rows alone. Raises ModelError if none does."""
        tried: dict[RowLayout, str] = {}
        for layout in _candidates(asked, default):
            trouble = self._trouble(layout, alone, asked)
            if trouble is None:
                return replace(layout, reason=next(iter(tried.values()), None))
            tried[layout] = trouble
        raise ModelError(
            f"several rows can't be trained together on `{self.model.config.model_type}`: "
            f"{'; '.join(f'{layout}, {trouble}' for layout, trouble in tried.items())}",
            place="$.model",
            hint='set model.attn_implementation to "auto"' if asked != "auto" else None,
        )

    def _set_attention(self, name: str) -> bool:
        """Use an attention. False if the model doesn't support it."""
        with contextlib.suppress(ValueError, ImportError):
            self.model.set_attn_implementation(name)
        return self.model.config._attn_implementation == name

    def _trouble(self, layout: RowLayout, alone: RowOutcome, asked: str) -> str | None:
        """Why a layout can't be used, None if it can: the same on all ranks."""
        reason = self._own_trouble(layout, alone, asked)
        if self.agree(reason is None):
            return None
        return reason or "another rank's result differs"

    def _own_trouble(self, layout: RowLayout, alone: RowOutcome, asked: str) -> str | None:
        if not self._set_attention(layout.attention):
            return f"the model's attention can't be `{layout.attention}`"
        varlen_attention.configure(self.model, asked)
        try:
            return (
                difference(self._together(layout), alone, self.limits)
                or (self.sharded and self._influence(layout))
                or self._trained_trouble(layout)
            )
        except (JobspecError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each family's code fails in its own way
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

    def _reference(self, default: str) -> RowOutcome:
        """The rows alone, by the plain attention if the model has it."""
        try:
            return self._alone("eager")
        except Exception:  # each family's code fails in its own way
            if default == "eager":
                raise
            return self._alone(default)

    def _alone(self, attention: str) -> RowOutcome:
        """Each row by itself, in a line without padding."""
        self._set_attention(attention)
        whole = (0, slice(None))
        parts = [self._compute(pad([row], [row.clone()], 0), [whole]) for row in self.ids]
        return RowOutcome(
            [part.logits[0] for part in parts],
            [part.embedded[0] for part in parts if part.embedded],
            [
                torch.stack(column).sum(0)
                for column in zip(*(p.weights for p in parts), strict=True)
            ],
        )

    def _line(self, layout: RowLayout) -> dict[str, Any]:
        return layout.collate(self.ids, [row.clone() for row in self.ids], 0)

    def _together(self, layout: RowLayout) -> RowOutcome:
        return self._compute(self._line(layout), layout.places(_LENGTHS))

    def _logits(self, line: dict[str, Any]) -> torch.Tensor:
        line.pop("labels")
        return self.model(**to_device(line, self.device), use_cache=False).logits

    def _compute(self, line: dict[str, Any], places: list[Any]) -> RowOutcome:
        """Logits and gradients of one line. Of sharded weights, only logits.

        Args:
            places: where each row is in [lines, tokens].
        """
        if self.sharded:
            with torch.no_grad():
                logits = self._logits(line)
            return RowOutcome([logits[at] for at in places], [], [])
        with torch.enable_grad(), embedded_tokens(self.model) as embedded:
            logits = self._logits(line)
            losses = [row_loss(logits[at]) for at in places]
            tokens = embedded[0]
            if not self.weights:
                self.reached = reached_weights(logits)
                self.weights = sample_weights(self.model, self.reached)
            leak = len(losses) > 1 and leaks(losses[1], tokens, places[1])
            inputs = [tokens, *self.weights]
            first, *weights = torch.autograd.grad(losses, inputs, allow_unused=True)
        weights = [
            torch.zeros_like(weight) if grad is None else grad
            for weight, grad in zip(self.weights, weights, strict=True)
        ]
        return RowOutcome(
            [logits[at].detach() for at in places], [first[at] for at in places], weights, leak
        )

    def _influence(self, layout: RowLayout) -> str | None:
        """Whether other tokens in the first and last row change the logits of the middle one."""
        ids = self.ids
        before = self._together(layout).logits[1]
        try:
            self.ids = [ids[0].flip(0), ids[1], ids[2].flip(0)]
            after = self._together(layout).logits[1]
        finally:
            self.ids = ids
        off = relative_error([after], [before])
        return (
            f"rows affect each other: logits change by {off:.1g}"
            if off > self.limits[0] / 10
            else None
        )

    def _trained_trouble(self, layout: RowLayout) -> str | None:
        """Why the layout can't be used in training mode, where dropout is on."""
        self.model.train()
        try:
            with torch.no_grad():
                finite = self._logits(self._line(layout)).isfinite().all()
            return None if finite else "logits are not finite"
        finally:
            self.model.eval()


def _random_rows(model: Any) -> list[torch.Tensor]:
    """Rows of random tokens, without special ones such as an image's."""
    vocabulary = model.get_input_embeddings().num_embeddings
    special = set(_token_ids(model.config.to_dict()))
    usual = torch.tensor([token for token in range(min(vocabulary, 5000)) if token not in special])
    draw = torch.Generator().manual_seed(0)
    return [usual[torch.randint(len(usual), (n,), generator=draw)] for n in _LENGTHS]


def _token_ids(config: dict[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _token_ids(value)
        elif str(name).endswith(("token_id", "token_index")):
            yield from value if isinstance(value, list) else [value]


def _candidates(asked: str, default: str) -> Iterator[RowLayout]:
    """The layouts to try, best first."""
    if asked not in ("sdpa", "eager"):
        name = varlen_attention.register()
        yield from (RowLayout("packed", name), RowLayout("packed", name, seq_idx=True))
    padded = ("sdpa", "eager", default) if asked == "auto" else (asked,)
    yield from (RowLayout("padded", name) for name in dict.fromkeys(padded))


@contextlib.contextmanager
def _sharpened(model: Any) -> Iterator[None]:
    """Shorten windows and chunks and lower caps, so that few tokens show what ignores them."""
    owners = [model.config, model.config.get_text_config(), *model.modules()]
    changed = [
        (owner, name, value)
        for owner in {id(owner): owner for owner in owners}.values()
        for name, sharp in _SHARP.items()
        if type(value := vars(owner).get(name)) in (int, float) and value > sharp
    ]
    for owner, name, _ in changed:
        setattr(owner, name, _SHARP[name])
    try:
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Transformers' warnings about layouts that are only tried."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
