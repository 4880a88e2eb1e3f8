"""Rows written as event files for TensorBoard. The only module that imports tensorboard.

Each run is a directory, named by the run's id. A row is one record: its numbers, step and time, and
beside them the row's line, attempt and sequence number, which TensorBoard does not show. Records
have checksums, so what TensorBoard itself can read of the files is what has arrived. A file with a
record that a killed writer left incomplete is not continued; the next rows go to a new file.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from jobspec.relay.row_sink import Answer, Axes
from jobspec.relay.tracked_run import DIGEST, settings
from jobspec.storage import fs, tempfiles

_PREFIX = "events.out.tfevents."
# What an event is, in its `source_metadata`: the first of a file, a row, the end of a run.
_AXIS, _ROW, _END = "jobspec axis", "jobspec row", "jobspec end"
_NO_SCALARS = {"attempt", "seq", "_timestamp"}
_RECORD_EXTRA = 16  # bytes of a record besides its data: length, two checksums
_RUNS = 1000  # open at once in one process; they hold no file open
_LONGEST_CELL = 200


@dataclass
class _EventRun:
    """A run's directory and what its files were seen to hold.

    Attributes:
        sizes: name and size of each event file when they were last read.
        torn: the last file ends inside a record.
        axis: the name of the value that is the step.
    """

    path: Path
    sizes: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    lines: int = 0
    tail: Answer | None = None
    digest: str | None = None
    state: str | None = None
    torn: bool = False
    axis: str = ""
    step: int = 0

    def files(self) -> list[tuple[str, int]]:
        """Name and size of the event files, in TensorBoard's order."""
        names = (name for name in fs.list_names(self.path) if name.startswith(_PREFIX))
        return sorted((name, (self.path / name).stat().st_size) for name in names)


class TensorBoardClient:
    """TensorBoard as a destination: one directory of event files for each run, below `store`."""

    def __init__(self, directory: Path, store: Path) -> None:
        del directory
        self._dir = store
        self._runs: dict[str, _EventRun] = {}
        self._history: tuple[str, list[tuple[str, int]], Answer] = ("", [], {})

    def hello(self, offline: bool) -> Answer:
        """Import the parts of tensorboard that read and write files, and find its directory."""
        del offline
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # where TensorFlow is installed too
        self._events = _module("compat.proto.event_pb2")
        self._summaries = _module("compat.proto.summary_pb2")
        self._writer = _module("summary.writer.record_writer")
        self._loader = _module("backend.event_processing.event_file_loader")
        self._hparams = _module("plugins.hparams.summary_v2")
        self._hparams_api = _module("plugins.hparams.api_pb2")
        self._hparams_data = _module("plugins.hparams.plugin_data_pb2")
        self._hparams_metadata = _module("plugins.hparams.metadata")
        self._text_metadata = _module("plugins.text.metadata")
        self._tensors = _module("compat.proto.tensor_pb2")
        self._types = _module("compat.proto.types_pb2")
        fs.make_dir(self._dir)
        if not os.access(self._dir, os.W_OK):
            raise PermissionError("no permission to write")
        return {"place": f"tensorboard {self._dir}", "entity": None, "runs": _RUNS, "exact": False}

    def count(self, entity: str | None, project: str, ids: list[str]) -> Answer:
        """What the files hold of these runs; null for a run without files."""
        return {"runs": {id: _counted(self._read(id)) for id in ids}}

    def open(self, id: str, facts: Answer, config: Answer, axes: Axes, **how: bool) -> Answer:
        """Go on with a run's files; a new run gets its settings for the HParams page."""
        del facts, how
        run = self._read(id)
        run.axis = axes[0][0]
        if not run.sizes:
            fs.make_dir(run.path)
            values = dict(settings(config.get("spec", {})))
            summary = self._hparams.hparams_pb(values, trial_id=config.get("job"))
            self._append(run, [self._event(0, summary=summary)])
        return {"starting_step": run.lines}

    def rows(self, id: str, first: int, rows: list[Answer]) -> Answer:
        """Append the rows' numbers; they are on disk when this returns."""
        run = self._runs[id]
        if first != run.lines:
            raise ValueError(f"line {first} would follow {run.lines} lines")
        self._append(run, [self._row_event(run, line, row) for line, row in enumerate(rows, first)])
        run.lines += len(rows)
        if rows:
            run.tail = _tail(run.lines - 1, rows[-1]["attempt"], rows[-1]["seq"])
        return {}

    def upload_error(self, id: str) -> Answer:
        """Null: rows are written at once or refused."""
        return {"error": None}

    def close(self, id: str, summary: Answer, exit_code: int, preempted: bool) -> Answer:
        """Write the summary as a table, and the end of the run for the HParams page."""
        run = self._runs[id]
        digest = str(summary.get(DIGEST))
        state = "failed" if exit_code or preempted else "finished"
        parts = (self._table(summary), self._session_end(failed=state == "failed"))
        events = [self._event(run.step, summary=part) for part in parts]
        self._append(run, [*events, self._event(run.step, writer=f"{_END} {digest} {state}")])
        run.digest, run.state = digest, state
        return {"error": None}

    def supersede(self, id: str, by: str, facts: Answer, config: Answer, axes: Axes) -> Answer:
        """Remove a run: all its rows are in the jobs' files, and the valid ones in run `by`."""
        del by, facts, config, axes
        fs.remove_tree(self._dir / id)
        self._runs.pop(id, None)
        return {}

    def history(
        self, entity: str | None, project: str, name: str, first: int, beyond: int
    ) -> Answer:
        """Rows `first` to `beyond - 1` of a run, their numbers with the 32 bits that are kept."""
        run = self._read(name)
        if not run.sizes:
            return {"run": None}
        if self._history[:2] != (name, run.sizes):
            events = self._all_events(run)
            rows = [row for event in events if (row := _row_of(event, run.axis)) is not None]
            self._history = (name, run.sizes, {"rows": rows})
        rows = [row for row in self._history[2]["rows"] if first <= row["_step"] < beyond]
        return {"run": {"state": run.state, "summary": {DIGEST: run.digest}, "rows": rows}}

    # Files

    def _read(self, id: str) -> _EventRun:
        """The run, read again if its files are not as they were left."""
        run = self._runs.get(id)
        if run is None or run.sizes != run.files():
            path = self._dir / id
            run = self._runs[id] = _EventRun(path)
            run.sizes = run.files()
            for event in self._all_events(run):
                self._note(run, event)
        return run

    def _all_events(self, run: _EventRun) -> Iterator[Any]:
        for name, size in run.sizes:
            length = 0
            for data in self._loader.RawEventFileLoader(str(run.path / name)).Load():
                length += len(data) + _RECORD_EXTRA
                yield self._events.Event.FromString(data)
            run.torn = length != size

    def _note(self, run: _EventRun, event: Any) -> None:
        writer: str = event.source_metadata.writer
        run.step = max(run.step, event.step)
        if writer.startswith(_ROW):
            run.tail = _tail(*map(int, writer.split()[2:]))
            run.lines += 1
        elif writer.startswith(_AXIS):
            run.axis = writer.removeprefix(_AXIS).strip()
        elif writer.startswith(_END):
            run.digest, run.state = writer.split()[2:]

    def _append(self, run: _EventRun, events: list[Any]) -> None:
        """Write events durably, to the run's last file or to a new one."""
        new = run.torn or not run.sizes
        name = self._new_name(run) if new else run.sizes[-1][0]
        buffer = io.BytesIO()
        records = self._writer.RecordWriter(buffer)
        if new:
            header = self._event(0, writer=f"{_AXIS} {run.axis}")
            header.file_version = "brain.Event:2"
            events = [header, *events]
        for event in events:
            records.write(event.SerializeToString())
        path = run.path / name
        run.torn = True  # until all is written
        with path.open("ab") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        if new:
            fs.sync_dir(run.path)
        run.torn = False
        run.sizes = run.files()

    def _new_name(self, run: _EventRun) -> str:
        """A name that sorts after the present files, whatever this host's clock says."""
        now = int(time.time())
        if run.sizes:
            now = max(now, int(run.sizes[-1][0].removeprefix(_PREFIX).split(".")[0]) + 1)
        return f"{_PREFIX}{now:010d}.{tempfiles.host()}.{os.getpid()}.0"

    # Events

    def _event(self, step: int, *, writer: str = "", summary: Any = None) -> Any:
        event = self._events.Event(wall_time=time.time(), step=step, summary=summary)
        if writer:
            event.source_metadata.writer = writer
        return event

    def _row_event(self, run: _EventRun, line: int, row: Answer) -> Any:
        value = row.get(run.axis)
        step = round(value) if isinstance(value, int | float) and abs(value) < 2**53 else line
        hidden = {*_NO_SCALARS, run.axis} if value == step else _NO_SCALARS
        event = self._event(step, writer=f"{_ROW} {line} {row['attempt']} {row['seq']}")
        event.wall_time = row.get("_timestamp", event.wall_time)
        for name, value in row.items():
            if name not in hidden and isinstance(value, int | float):
                event.summary.value.add(tag=name, simple_value=value)
        event.summary.SetInParent()
        run.step = max(run.step, step)
        return event

    def _table(self, summary: Answer) -> Any:
        """The summary for the Text page, as a table in Markdown."""
        cells = (f"| {k} | {str(v)[:_LONGEST_CELL]} |" for k, v in summary.items() if k != DIGEST)
        text = "\n".join(["| name | value |", "| --- | --- |", *cells])
        made = self._summaries.Summary()
        made.value.add(
            tag="job/summary",
            tensor=self._tensors.TensorProto(
                dtype=self._types.DT_STRING, tensor_shape={}, string_val=[text.encode()]
            ),
            metadata=self._text_metadata.create_summary_metadata(None, None),
        )
        return made

    def _session_end(self, *, failed: bool) -> Any:
        data = self._hparams_data.HParamsPluginData()
        status = self._hparams_api.STATUS_FAILURE if failed else self._hparams_api.STATUS_SUCCESS
        data.session_end_info.status = status
        data.session_end_info.end_time_secs = time.time()
        made = self._summaries.Summary()
        made.value.add(
            tag=self._hparams_metadata.SESSION_END_INFO_TAG,
            tensor=self._hparams_metadata.NULL_TENSOR,
            metadata=self._hparams_metadata.create_summary_metadata(data),
        )
        return made


def _module(name: str) -> Any:
    return import_module(f"tensorboard.{name}")


def _counted(run: _EventRun) -> Answer | None:
    if not run.sizes:
        return None
    return {"count": run.lines, "tail": run.tail, "digest": run.digest, "state": run.state}


def _tail(line: int, attempt: int, seq: int) -> Answer:
    return {"_step": line, "attempt": attempt, "seq": seq}


def _row_of(event: Any, axis: str) -> Answer | None:
    """The row of an event; None if it is no row."""
    writer: str = event.source_metadata.writer
    if not writer.startswith(_ROW):
        return None
    values = {axis: event.step} | {value.tag: value.simple_value for value in event.summary.value}
    return values | _tail(*map(int, writer.split()[2:])) | {"_timestamp": event.wall_time}
