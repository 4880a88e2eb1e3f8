"""The page of one card: what was measured on it, when, with which versions, and what was not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.routes import ROUTES
from benchmarks.gpu.work_kinds import KINDS
from worker.host import gpus

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "trl",
    "deepspeed",
    "liger-kernel",
    "flash-attn",
    "vllm",
)
Results = Mapping[str, Mapping[str, Any]]


def write(directory: Path, bench: Bench, results: Results) -> Path:
    """Write `<card>.md` and `<card>.json`. Returns the page's path."""
    card = "toy size on a CPU" if bench.toy else _card()
    path = directory / (re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".md")
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    path.write_text(render(card, bench, results))
    return path


def _card() -> str:
    found = gpus.answering()
    return found[0].name if found else "no GPU"


def render(card: str, bench: Bench, results: Results) -> str:
    """The page, in Markdown."""
    size = bench.size
    parts = [
        f"# {card}",
        f"{machine(*PACKAGES)}. Written by `make gpu` (`python -m benchmarks.gpu`).",
        f"The model has the layer shapes of Olmo-3-7B, {size.layers} layers (the whole model "
        f"{size.all_layers}) and random weights; it is trained on one device with ZeRO-2 in "
        f"{size.dtype}. Full rows have {size.max_length:,} tokens, {size.rows['full']} rows a "
        f"step; mixed rows have a median of {size.median_length:,}, {size.rows['mixed']} rows a "
        "step. Defaults are what `jobspec new` writes; other rows change one field of them. MFU "
        "counts no recomputed work.",
        "## Training",
        _training(results),
        *_profiles(results),
        "## Generation, demo and tests",
        _others(results),
        "## Failed or not measured",
        _missing(bench, results),
    ]
    return "\n\n".join(parts) + "\n"


def _training(results: Results) -> str:
    head = (
        "| route | tokens/s | s a step | MFU | peak GiB | predicted GiB | J a token "
        "| loss, first → last | attention | layer kernels |"
    )
    lines = [head, "| --- |" + " ---: |" * 6 + " --- | --- | --- |"]
    for name, row in results.items():
        if "losses" not in row:
            continue
        first, last = row["losses"]
        cells = [
            ROUTES[name].title,
            f"{row['tokens_per_second']:,.0f}",
            *(_number(row.get(key), digits) for key, digits in _COLUMNS),
            f"{first:.4f} → {last:.4f}",
            row["attention"] or "the model's own",
            row["kernels"] or "none",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured."


def _profiles(results: Results) -> list[str]:
    """Where the time of a step goes; nothing unless something was profiled."""
    profiled = {name: row["profile"] for name, row in results.items() if "profile" in row}
    if not profiled:
        return []
    head = f"| route | s a step | {' | '.join(KINDS)} |"
    lines = [head, "| --- |" + " ---: |" * (len(KINDS) + 1)]
    for name, found in profiled.items():
        shares = (f"{found['kinds'][kind] / found['step_s']:.1%}" for kind in KINDS)
        lines.append(f"| {ROUTES[name].title} | {found['step_s']:.2f} | {' | '.join(shares)} |")
    text = "Shares of the steps under the profiler, which makes them slower:"
    return ["## Time by kind of work", text, "\n".join(lines)]


def profile_lines(found: Mapping[str, Any]) -> list[str]:
    """Time by kind of work, and the longest kernels, as text."""
    step_s = found["step_s"]
    kinds = [
        f"  {kind:21} {seconds:9.4f} s {seconds / step_s:6.1%}"
        for kind, seconds in found["kinds"].items()
    ]
    rows = [
        f"    {seconds:9.4f} s {seconds / step_s:6.1%}  {kind}: {name[:90]}"
        for kind, name, seconds in found["longest"]
    ]
    return [f"  a step of {step_s:.4f} s", *kinds, "  longest:", *rows]


_COLUMNS = (
    ("step_s", 2),
    ("mfu", 3),
    ("peak_gib", 1),
    ("predicted_gib", 1),
    ("joules_per_token", 4),
)


def _others(results: Results) -> str:
    lines = []
    if "engine" in (row := results.get("generation", {})):
        energy = _number(row["joules_per_token"], 3) or "an unknown number of"
        lines.append(
            f"- Generation: engine `{row['engine']}` ({row['why']}), {row['method']}, "
            f"{row['dtype']}, {row['samples']} samples at a time: "
            f"{row['tokens_per_second']:,.0f} tokens/s, {energy} J a token; "
            f"loading took {row['load_s']:.1f} s."
        )
    if "scores" in (row := results.get("demo", {})):
        lines.append(f"- Demo: {row['machine']}. {row['scores']}. It took {row['wall_s']:.0f} s.")
    if "summary" in (row := results.get("tests", {})):
        lines.append(f"- Tests marked `gpu`: {row['summary']}")
        lines += [f"    - skipped: {reason}" for reason in row["skips"]]
    return "\n".join(lines) or "Not measured."


def _missing(bench: Bench, results: Results) -> str:
    rows = [(route, results.get(name, {"skipped": "not run"})) for name, route in ROUTES.items()]
    lines = [
        f"- {route.title}: {why}: {row[why]}"
        for route, row in rows
        for why in ("failed", "skipped")
        if why in row
    ]
    if bench.energy.missing:
        lines.append(f"- energy: {bench.energy.missing}")
    return "\n".join(lines) or "Nothing: every route ran."


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
