"""flash.py: which kernel trains, that it is called as it must be, and that a wrong one is not used.

No kernel runs without a GPU: packages that compute the same in plain torch stand in
(tests.support.flash_packages).
Where there is one, tests/integration/test_gpu.py runs the real ones.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.specs import train_spec

torch = pytest.importorskip("torch")

from torch.nn.attention import varlen  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Olmo3Config,
    Qwen3Config,
)

from jobspec.errors import SpecError  # noqa: E402
from jobspec.queue.queue import Queue  # noqa: E402
from jobspec.records import base as records  # noqa: E402
from jobspec.records.attempt import End  # noqa: E402
from jobspec.records.base import Reason, State  # noqa: E402
from tests.support import flash_packages  # noqa: E402
from tests.support.models import WIDTHS  # noqa: E402
from worker.host.devices import WorkerDevices  # noqa: E402
from worker.kernels import flash_attention, liger, varlen_attention  # noqa: E402
from worker.packing.collate import pack  # noqa: E402
from worker.supervisor.attempt import Attempt  # noqa: E402
from worker.supervisor.worker import Worker, WorkerOptions  # noqa: E402

TWO, THREE, FOUR = flash_attention.NAMES
TORCH = f"torch varlen {torch.__version__}"
SHOWN = {
    TWO: "flash-attn 2 2.8.3",
    THREE: "flash-attn 3 3.0.0",
    FOUR: "flash-attn 4 4.0.0b36",
    "torch": TORCH,
}
HEADS = flash_attention.Heads(torch.device("cpu"), torch.bfloat16, 8, 4, 2, windowed=True)
Have = Callable[..., None]
SHAPE: dict[str, Any] = WIDTHS | {
    "vocab_size": 60,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Have]:
    """Make this CPU pass for a GPU of a generation that has these packages installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(varlen, "varlen_attn", flash_packages.varlen_attn)
    monkeypatch.setattr(flash_packages, "BUGS", set())

    def made(*names: str, major: int = 9) -> None:
        monkeypatch.setattr(flash_attention, "capability", lambda device: major)
        for name in names:
            flash_packages.install(tmp_path, name)
        importlib.invalidate_caches()

    yield made
    for name in [name for name in sys.modules if name.startswith("flash_attn")]:
        del sys.modules[name]
    varlen_attention._runs = varlen_attention._Runs()


def test_torchs_stand_in_has_torchs_signature() -> None:
    ours, real = (
        inspect.signature(f).parameters for f in (flash_packages.varlen_attn, varlen.varlen_attn)
    )
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in real.values()
    ]


@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("name", SHOWN)
def test_each_computes_what_rows_by_themselves_do(
    name: str, window: int | None, shared: int, have: Have
) -> None:
    have(*({name} - {"torch"}))
    kernel = flash_attention.choose("auto" if name == "torch" else name, HEADS)
    assert kernel is not None and kernel.name == SHOWN[name]
    lengths = [3, 17, 1, 9]
    draw = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(1, heads, 30, 8, generator=draw, dtype=torch.float64, requires_grad=True)
        for heads in (4, shared, shared, 4)
    )
    for scale in (None, 0.9):
        expected = varlen_attention._by_row(q, k, v, lengths, scale, window)[0]
        ends = torch.tensor([0, 3, 20, 21, 30], dtype=torch.int32)
        bounds = flash_attention.Bounds(ends, 17)
        line = (x[0].transpose(0, 1) for x in (q, k, v))
        found = kernel.run(*line, bounds, bounds, scale, window)
        torch.testing.assert_close(found, expected)
        wanted = grad[0].transpose(0, 1)
        for one, other in zip(
            torch.autograd.grad(found, (q, k, v), wanted),
            torch.autograd.grad(expected, (q, k, v), wanted),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shared", [4, 1])
@pytest.mark.parametrize(
    ("function", "windowed"),
    [(flash_packages.varlen_attn_2_10, False), (flash_packages.varlen_attn_2_11, True)],
    ids=["torch 2.10", "torch 2.11"],
)
def test_torchs_own_kernel_is_called_by_the_signature_it_has(
    function: object, windowed: bool, shared: int, have: Have, monkeypatch: pytest.MonkeyPatch
) -> None:
    have()
    monkeypatch.setattr(varlen, "varlen_attn", function)
    kernel = flash_attention._torchs(9)
    heads = replace(HEADS, shared=shared, windowed=windowed)
    assert flash_attention.trouble(kernel, heads) is None
    if not windowed:  # tried with a window, and refused for a model that needs one
        wrong = flash_attention.trouble(kernel, replace(heads, windowed=True))
        assert wrong is not None and "no windows before torch 2.11" in wrong


@torch.no_grad()  # with gradients, tracing itself warns
def test_a_compiled_layer_records_its_kernel(have: Have) -> None:
    have()
    config = Olmo3Config(**SHAPE, sliding_window=5)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=varlen_attention.register()
    )
    varlen_attention.configure(model)
    rows = [torch.randint(2, 60, (length,)) for length in (3, 17)]
    line = pack(rows, [row.clone() for row in rows])
    expected = model(**line, use_cache=False).loss
    varlen_attention.configure(model)
    for layer in model.model.layers:
        layer.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(**line, use_cache=False).loss, expected)
    assert varlen_attention.ran() == "rows by sdpa"
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("major", "installed", "chosen"),
    [
        (9, (TWO, THREE, FOUR), SHOWN[THREE]),
        (9, (TWO, FOUR), SHOWN[FOUR]),
        (9, (TWO,), TORCH),
        (9, (), TORCH),
        (10, (TWO, THREE, FOUR), SHOWN[FOUR]),
        (10, (THREE,), TORCH),
        (8, (TWO, THREE, FOUR), TORCH),
        (12, (TWO, THREE, FOUR), TORCH),
        (7, (TWO, THREE, FOUR), None),
    ],
)
def test_the_fastest_that_the_device_has_is_chosen(
    major: int, installed: tuple[str, ...], chosen: str | None, have: Have
) -> None:
    have(*installed, major=major)
    kernel = flash_attention.choose("auto", HEADS)
    assert (kernel and kernel.name) == chosen


def test_flash_attention_2_runs_where_torchs_own_knows_no_windows(
    have: Have, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(TWO)
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, k, v, a, b, c, d, is_causal=False: q)
    kernel = flash_attention.choose("auto", HEADS)
    assert kernel is not None and kernel.name == SHOWN[TWO]


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ("window", "output is off by .*with a window"),
        ("scale", "output is off by"),
        ("leaks", "output is off by"),
        ("gradient", "RuntimeError|dv is off by"),
        ("raises", "RuntimeError: CUDA error: no kernel image is available"),
    ],
)
def test_a_kernel_that_is_wrong_or_fails_is_not_used(
    bug: str, said: str, have: Have, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(THREE)
    right = flash_attention._torchs(9)
    monkeypatch.setattr(
        flash_attention, "_torchs", lambda major: flash_attention.Kernel("sound", _sound(right.run))
    )
    flash_packages.BUGS.add(bug)
    state = torch.get_rng_state()
    with pytest.raises(
        SpecError, match=f"`{THREE}` can't train .*{SHOWN[THREE]}: ({said})"
    ) as told:
        flash_attention.choose(THREE, HEADS)
    assert told.value.place == "$.model.attn_implementation"
    kernel = flash_attention.choose("auto", HEADS)
    assert kernel is not None and kernel.name == "sound"
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", SHOWN)
def test_to_generate_a_kernel_aligns_the_last_query_with_the_last_key(
    name: str, have: Have
) -> None:
    have(*({name} - {"torch"}))
    asked = "auto" if name == "torch" else name
    kernel = flash_attention.choose(asked, HEADS, train=False)
    assert kernel is not None and kernel.name == SHOWN[name]
    flash_packages.BUGS.add("aligned")
    assert flash_attention.trouble(kernel, HEADS) is None  # rows of training do not show it
    wrong = flash_attention.trouble(kernel, HEADS, train=False)
    assert wrong is not None and "output is off by" in wrong


def _sound(run: flash_attention.Run) -> flash_attention.Run:
    def without_bugs(*given: object) -> torch.Tensor:
        bugs = flash_packages.BUGS.copy()
        flash_packages.BUGS.clear()
        try:
            return run(*given)  # pyright: ignore[reportArgumentType]
        finally:
            flash_packages.BUGS.update(bugs)

    return without_bugs


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dtype": torch.float32}, "float32"),
        ({"size": 264}, "heads of 264"),
        ({"size": 12}, "heads of 12"),
    ],
)
def test_what_no_kernel_runs_is_computed_by_row_unless_one_is_named(
    changed: dict[str, object], said: str, have: Have
) -> None:
    have(TWO, THREE, FOUR)
    heads = flash_attention.Heads(**{**vars(HEADS), **changed})
    assert flash_attention.choose("auto", heads) is None
    with pytest.raises(SpecError, match=said):
        flash_attention.choose(THREE, heads)


def test_a_named_one_that_is_missing_or_made_for_another_gpu_is_refused(have: Have) -> None:
    have(THREE, major=8)
    with pytest.raises(SpecError, match="flash-attn 3 has no kernels for compute capability 8"):
        flash_attention.choose(THREE, HEADS)
    with pytest.raises(SpecError, match="`flash-attn` is not installed"):
        flash_attention.choose(TWO, HEADS)


CONFIGS = [
    Olmo3Config(**SHAPE, sliding_window=5),
    Qwen3Config(**SHAPE),
    LlamaConfig(**SHAPE),
    Gemma3TextConfig(**SHAPE, sliding_window=5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_a_model_trains_with_it_as_by_row_and_what_ran_is_known(config: object, have: Have) -> None:
    have(TWO, THREE)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.bfloat16, attn_implementation=varlen_attention.register()
    )
    rows = [torch.randint(2, 60, (length,)) for length in (3, 17, 1, 9)]
    line = pack(rows, [row.clone() for row in rows])

    def losses() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = model(**line, use_cache=False).loss
        loss.backward()
        return loss, {name: p.grad.clone() for name, p in model.named_parameters()}

    by_row, gradients = losses()
    assert varlen_attention.ran() == "rows by sdpa"
    varlen_attention.configure(model, TWO)
    assert varlen_attention.ran() is None
    loss, found = losses()
    assert varlen_attention.ran() == SHOWN[TWO]
    torch.testing.assert_close(loss, by_row, atol=0, rtol=0.02)
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 0.05 * gradient.norm(), name
    model.float()  # not what was tried: no kernel is trusted with it
    model(**line, use_cache=False)
    assert varlen_attention.ran() == f"{SHOWN[TWO]}, rows by sdpa"


def test_a_job_that_names_what_is_not_installed_is_refused_before_it_starts(have: Have) -> None:
    have(FOUR)

    def check(asked: str, *, on_gpu: bool = True) -> None:
        liger.check(train_spec("m", model__attn_implementation=asked), on_gpu=on_gpu)

    check(FOUR)
    check("auto", on_gpu=False)
    check("sdpa", on_gpu=False)
    with pytest.raises(SpecError, match=f"`{FOUR}` needs a GPU"):
        check(FOUR, on_gpu=False)
    with pytest.raises(SpecError, match="needs the package `flash-attn-3`"):
        check(THREE)
    # The module is here, but it is 4's.
    with pytest.raises(SpecError, match="needs the package `flash-attn`") as told:
        check(TWO)
    assert told.value.place == "$.model.attn_implementation" and told.value.hint


def test_a_job_that_names_attention_that_is_not_here_fails_before_anything_is_done(
    queue: Queue,
) -> None:
    named = {"model__attn_implementation": "flash_attention_2", "data__sha256": "0" * 64}
    job = queue.enqueue(train_spec("m", **named)).paths.attempt(1)
    worker = Worker(queue, WorkerOptions(), WorkerDevices(1))
    try:
        worker.send_heartbeat()
        claim = queue.claim(worker.id)
        assert claim is not None
        assert Attempt(worker, claim).run().state is State.FAILED
    finally:
        shutil.rmtree(worker.tmp)
    end = records.read(job.end, End)
    assert end is not None
    assert (end.phase, end.reason) == (None, Reason.FAILED)
    assert "`flash_attention_2` needs a GPU" in end.message and end.hint
    assert not job.log("prepare").exists()
