"""`jobspec preview`: the data of a spec as a whole, and single rows as they are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from jobspec.checks import check, rows
from jobspec.cli.common import common, current_root, wants_json
from jobspec.cli.output import emit_struct, interactive, plural, say, terminal_width, warn
from jobspec.cli.progress import waiting
from jobspec.errors import JobspecError
from jobspec.records.answers import Preview
from jobspec.records.base import UNSET
from jobspec.records.mixture import SourceReport
from jobspec.records.overview import DataOverview, Duplicates, HistogramBin
from jobspec.records.reports import Overlap, RowReport
from jobspec.spec import parsing

_WIDEST = 80


@click.command()
@click.argument("file", metavar="SPEC", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--row",
    type=click.IntRange(min=1),
    help="Show only this row, by its line number in the data file.",
)
@click.option(
    "--source", help="With --row, the name of its source in a mixture.  [default: the first]"
)
@common
def preview(file: Path, row: int | None, source: str | None) -> None:
    """Show the data as a whole, and one row as the model sees it, with the trained tokens marked.

    \b
    jobspec preview specs/qwen3-8b-lr1e-5.json
    jobspec preview specs/qwen3-8b-lr1e-5.json --row 17

    Without --row it shows the first row, and counts all rows, their lengths, what is too long,
    duplicates, and questions of the benchmarks that the spec will run. The loss is computed on the
    marked tokens only. --json also prints token ids and labels.
    """
    if source is not None and row is None:
        raise click.UsageError("--source needs --row.")
    completed = check.complete(parsing.load(file), file)
    if completed.data is None:
        raise JobspecError(
            "this spec trains nothing, so there is no row to show", file=file, place="$.train"
        )
    with waiting("reading all rows" if row is None else "reading the row"):
        shown = rows.preview(completed, current_root(), row, source)
    if wants_json():
        return emit_struct(shown)
    if shown.overview is UNSET or shown.text:
        _print_row(shown)
    if shown.overview is not UNSET:
        _print_overview(shown.overview)
    return None


def _print_overview(shown: DataOverview) -> None:
    """Print the overview, with lines that fit the terminal."""
    import textwrap

    click.echo()
    for line in overview_lines(shown):
        wrapped = textwrap.wrap(line, terminal_width(), subsequent_indent="  ")
        click.echo(line if "█" in line else "\n".join(wrapped))
    if shown.refused is not None:
        warn(f"enqueue will refuse this data: {shown.refused}")
    if shown.not_tokenized is not None:
        warn(f"rows can't be shown as trained here: {shown.not_tokenized}")


def overview_lines(shown: DataOverview) -> Iterator[str]:
    """The overview as lines of text."""
    if shown.rows is not None:
        yield from row_lines(shown.rows)
        yield f"{shown.rows.prompts:,} different prompts"
        yield _too_long_line(shown.rows, shown.max_length)
    else:
        malformed = f", {shown.malformed:,} malformed" if shown.malformed else ""
        yield f"{plural(shown.conversations, 'row')}{malformed}"
    yield ""
    yield from _histogram_lines(f"{shown.unit} per row", shown.lengths)
    yield from _histogram_lines("trained tokens per row", shown.trained)
    yield from _duplicate_lines(shown.duplicates, shown)
    for name, found in shown.overlap.items():
        yield f"benchmark {name}: {_overlap_text(found, shown)}"


def _name_row(row: int, shown: DataOverview) -> str:
    """A row's number; in a mixture `3 of math`."""
    named = [(name, row - before) for name, before in shown.sources if before < row]
    return f"{named[-1][1]} of {named[-1][0]}" if named else str(row)


def _too_long_line(report: RowReport, max_length: int) -> str:
    count = report.dropped.get("over_long", 0)
    if not count:
        return f"no row is longer than max_length {max_length:,}; nothing is truncated"
    return (
        f"{plural(count, 'row')} longer than max_length {max_length:,}, with "
        f"{report.over_long_tokens:,} tokens: dropped, never truncated"
    )


def _histogram_lines(title: str, bins: Sequence[HistogramBin]) -> Iterator[str]:
    """A line for each bin, with a bar in proportion to its rows."""
    if not bins:
        return
    labels = [f"{each.least:,} – {each.most:,}" for each in bins]
    counts = [f"{each.rows:,}" for each in bins]
    label, count = max(map(len, labels)), max(map(len, counts))
    width = min(terminal_width(), _WIDEST) - label - count - 6
    largest = max(each.rows for each in bins)
    yield title
    for each, text, rows_text in zip(bins, labels, counts, strict=True):
        bar = "█" * round(each.rows / largest * width)
        bar = bar or ("▏" if each.rows else "")  # a few rows among many
        yield f"  {text:>{label}}  {rows_text:>{count}}  {bar}".rstrip()
    yield ""


def _duplicate_lines(found: Duplicates, shown: DataOverview) -> Iterator[str]:
    pairs = ", ".join(
        f"{_name_row(row, shown)} = {_name_row(earlier, shown)}"
        for row, earlier in found.exact_examples
    )
    yield f"exact duplicates: {_some_rows(found.exact_rows, pairs)}"
    if found.near_rows is None:
        yield "near duplicates: not searched for, because numpy is missing here"
        return
    pairs = ", ".join(
        f"{_name_row(one.row, shown)} ≈ {_name_row(one.earlier, shown)} ({one.similarity:.0%})"
        for one in found.near_examples
    )
    yield f"near duplicates: {_some_rows(found.near_rows, pairs)}; {found.compared:,} rows compared"


def _some_rows(count: int, examples: str) -> str:
    if not count:
        return "none"
    return f"{count:,} repeat{'s' * (count == 1)} an earlier row: {examples}"


def _overlap_text(found: Overlap | None, shown: DataOverview) -> str:
    if found is None:
        return "not searched for, its questions are not here"
    if not found.rows_found:
        return f"none of {plural(found.judged, 'question')} found"
    pairs = ", ".join(f"row {_name_row(row, shown)}: {id_}" for id_, row in found.examples)
    return (
        f"{plural(found.rows_found, 'row')} with {found.questions_found:,} of "
        f"{plural(found.judged, 'question')}: {pairs}"
    )


def row_lines(report: RowReport) -> list[str]:
    """Rows, tokens and lengths of a row report, and the first row dropped for each reason."""
    sampled = 0 < report.rows_selected < report.rows_in
    selected = f", {report.rows_selected:,} selected" if sampled else ""
    kept = f"{report.rows_train:,} to train on, {report.rows_eval:,} held out"
    lines = [f"{plural(report.rows_in, 'row')}{selected}: {kept}"]
    if report.dropped:
        why = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in report.dropped.items())
        lines[0] += f", {sum(report.dropped.values()):,} dropped ({why})"
    if report.tokens:
        fraction = report.trained_tokens / report.tokens
        lines.append(
            f"{report.tokens:,} tokens, {report.trained_tokens:,} of them trained ({fraction:.0%})"
        )
    if report.length_percentiles:
        spread = ", ".join(f"{name} {n:,.0f}" for name, n in report.length_percentiles.items())
        lines[-1] += f"; tokens per row: {spread}"
    lines += map(_source_line, report.sources)
    for row in sorted(report.first_dropped, key=lambda row: row.row):
        of = f" of {row.source}" if row.source else ""
        lines.append(f"row {row.row}{of}, dropped as {row.kind}: {row.reason}")
    return lines


def _source_line(source: SourceReport) -> str:
    """`source math: 40 rows, each 2.5 times: 95 to train on, …`."""
    times = "" if source.repeat == 1 else f", each {source.repeat:.4g} times"
    dropped = sum(source.dropped.values())
    return (
        f"source {source.name}: {plural(source.rows_in, 'row')}{times}: "
        f"{source.train.rows:,} to train on, {source.eval.rows:,} held out"
        + (f", {dropped:,} dropped" if dropped else "")
        + f"; {source.train.trained_tokens:,} trained tokens in an epoch"
    )


def _print_row(shown: Preview) -> None:
    """Print the rendered row. Trained text is green on a terminal, and between marks elsewhere."""
    if shown.dropped:
        warn(f"row {shown.row} is not trained on: {shown.dropped}")
    for name in shown.unrendered:
        warn(f"`{name}` carries text that is not rendered; data.ignore_fields may list it")
    text, trained = shown.text, shown.supervised_text
    start = text.rfind(trained) if trained else -1
    labels = shown.labels
    count = sum(label != -100 for label in labels)
    say(f"row {shown.row}: {plural(len(labels), 'token')}, {count:,} trained", fg="cyan")
    if shown.format:
        say(shown.format, fg="cyan")
    if start < 0:
        click.echo(text)
        return
    before, after = text[:start], text[start + len(trained) :]
    if interactive():
        marked = click.style(trained, fg="green", bold=True)
        click.echo(click.style(before, dim=True) + marked + click.style(after, dim=True))
    else:
        rest = f"\n{after}" if after.strip() else ""
        click.echo(f"{before}\n>>> trained\n{trained}\n<<< trained{rest}")
