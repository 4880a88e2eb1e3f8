"""Rows written to trackio's local database. The only module that imports trackio.

trackio keeps one SQLite file for each project. A row has a unique `log_id` there, made from run,
line, attempt and sequence number, and a row with a `log_id` that exists is ignored. Rows are given
to trackio's storage directly: its `init` and `log` send them later, from a thread.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from jobspec.relay.row_sink import Answer, Axes
from jobspec.relay.tracked_run import DIGEST, settings
from jobspec.storage import fs

_SETTINGS = {"TRACKIO_SQLITE_SYNCHRONOUS": "full", "HF_HUB_OFFLINE": "1"}
# With one of these trackio reads or writes elsewhere.
_REMOTE = ("SPACE_ID", "SERVER_URL", "DATASET_ID", "BUCKET_ID", "REGISTRY_BUCKET_ID")
_RUNS = 100_000  # open in one process; only one writes to the database
_HIDDEN = {"attempt", "seq", "_timestamp"}
_COUNT = "SELECT COUNT(*), MAX(id) FROM metrics WHERE run_id = ? AND log_id LIKE ?"
_SAVE = """INSERT OR REPLACE INTO configs (run_id, run_name, config, created_at)
           VALUES (?, ?, ?, ?)"""


@dataclass
class _OpenRun:
    project: str
    name: str
    axis: str
    lines: int
    config: Answer = field(default_factory=dict[str, Any])


class TrackioClient:
    """trackio as a destination, with its databases in the directory `store`."""

    def __init__(self, directory: Path, store: Path) -> None:
        del directory
        self._dir = store
        self._runs: dict[str, _OpenRun] = {}
        self._complete: set[str] = set()  # projects whose database has all its tables

    def hello(self, offline: bool) -> Answer:
        """Import trackio's storage, which then uses its directory and nothing else."""
        del offline
        fs.make_dir(self._dir)
        if not os.access(self._dir, os.W_OK):
            raise PermissionError("no permission to write")
        for name in _REMOTE:
            os.environ.pop(f"TRACKIO_{name}", None)
        os.environ |= {**_SETTINGS, "TRACKIO_DIR": str(self._dir)}
        self._utils: Any = import_module("trackio.utils")
        self._storage: Any = import_module("trackio.sqlite_storage").SQLiteStorage
        self._json: Any = import_module("orjson")
        if self._utils.is_network_filesystem(self._dir):  # the default needs shared memory
            os.environ.setdefault("TRACKIO_SQLITE_JOURNAL_MODE", "delete")
        return {"place": f"trackio {self._dir}", "entity": None, "runs": _RUNS, "exact": True}

    def count(self, entity: str | None, project: str, ids: list[str]) -> Answer:
        """What the project's database has of these runs."""
        del entity
        if not self._storage.get_project_db_path(project).exists():
            return {"runs": dict.fromkeys(ids)}
        if project not in self._complete:
            # trackio commits one statement at a time: a relay may have been killed in between.
            self._storage.init_db(project)
            self._complete.add(project)
        with self._connection(project) as connection:
            return {"runs": {id: self._counted(connection, id) for id in ids}}

    def open(self, id: str, facts: Answer, config: Answer, axes: Axes, **how: bool) -> Answer:
        """Create the project's database if need be, and save the run's settings."""
        del how
        project = facts["project"]
        self._storage.validate_project_name(project)
        self._storage.init_db(project)
        with self._connection(project) as connection:
            found = self._counted(connection, id) or {"count": 0}
            name, before = self._saved(connection, id)
            whole = {"job": config.get("job"), **dict(settings(config.get("spec", {})))}
            whole |= {"manifest": config.get("manifest"), "_Group": facts.get("group")}
            whole |= {"_Created": before.get("_Created") or _now(), "_Username": "jobspec relay"}
            whole["_Axis"] = axes[0][0]
            whole |= {key: value for key, value in before.items() if key not in whole}
            run = _OpenRun(project, name or facts["name"], axes[0][0], found["count"], whole)
            self._save(connection, id, run)
        self._runs[id] = run
        return {"starting_step": run.lines}

    def rows(self, id: str, first: int, rows: list[Answer]) -> Answer:
        """Add rows in one transaction."""
        run = self._runs[id]
        if first != run.lines:
            raise ValueError(f"line {first} would follow {run.lines} lines")
        steps = [_step(row.get(run.axis), line) for line, row in enumerate(rows, first)]
        self._storage.bulk_log(
            run.project,
            run.name,
            [_shown(row, run.axis, step) for row, step in zip(rows, steps, strict=True)],
            steps=steps,
            timestamps=[_time(row.get("_timestamp")) for row in rows],
            log_ids=[
                f"{id}/{line}/{row['attempt']}/{row['seq']}" for line, row in enumerate(rows, first)
            ],
            run_id=id,
        )
        run.lines += len(rows)
        return {}

    def upload_error(self, id: str) -> Answer:
        """Null: rows are written at once or refused."""
        return {"error": None}

    def close(self, id: str, summary: Answer, exit_code: int, preempted: bool) -> Answer:
        """Save the summary beside the settings, where trackio's table of runs shows it."""
        run = self._runs.pop(id)
        state = "failed" if exit_code or preempted else "finished"
        shown = {key: value for key, value in summary.items() if key != DIGEST}
        run.config |= {**shown, "_Digest": summary.get(DIGEST), "_State": state}
        with self._connection(run.project) as connection:
            self._save(connection, id, run)
        return {"error": None}

    def supersede(self, id: str, by: str, facts: Answer, config: Answer, axes: Axes) -> Answer:
        """Remove a run: all its rows are in the jobs' files, and the valid ones in run `by`."""
        del by, config, axes
        self._storage.delete_run(facts["project"], facts["name"], run_id=id)
        return {}

    def history(
        self, entity: str | None, project: str, name: str, first: int, beyond: int
    ) -> Answer:
        """Rows `first` to `beyond - 1` of a run."""
        held = self.count(entity, project, [name])["runs"][name]
        if held is None:
            return {"run": None}
        with self._connection(project) as connection:
            axis = self._saved(connection, name)[1].get("_Axis", "")
            query = "SELECT log_id, step, timestamp, metrics FROM metrics WHERE run_id = ?"
            found = connection.execute(query, (name,)).fetchall()
        rows = [
            {axis: step, **self._json.loads(metrics), **_tail(log_id), "_timestamp": _seconds(at)}
            for log_id, step, at, metrics in found
        ]
        part = [row for row in rows if first <= row["_step"] < beyond]
        summary = {DIGEST: held["digest"]}
        return {"run": {"state": held["state"], "summary": summary, "rows": part}}

    # The database

    @contextmanager
    def _connection(self, project: str) -> Generator[Any]:
        path = self._storage.get_project_db_path(project)
        with self._storage._get_connection(path, row_factory=None) as connection:
            yield connection

    def _counted(self, connection: Any, id: str) -> Answer | None:
        count, newest = connection.execute(_COUNT, (id, f"{id}/%")).fetchone()
        name, config = self._saved(connection, id)
        if not count and name is None:
            return None
        query = "SELECT log_id FROM metrics WHERE id = ?"
        tail = _tail(connection.execute(query, (newest,)).fetchone()[0]) if count else None
        state = config.get("_State")
        return {"count": count, "tail": tail, "digest": config.get("_Digest"), "state": state}

    def _saved(self, connection: Any, id: str) -> tuple[str | None, Answer]:
        """A run's name, which a user may have changed, and its settings."""
        query = "SELECT run_name, config FROM configs WHERE run_id = ?"
        found = connection.execute(query, (id,)).fetchone()
        return (None, {}) if found is None else (found[0], self._json.loads(found[1]))

    def _save(self, connection: Any, id: str, run: _OpenRun) -> None:
        config = self._json.dumps(self._utils.serialize_values(run.config))
        connection.execute(_SAVE, (id, run.name, config, _now()))


def _tail(log_id: str) -> Answer:
    line, attempt, seq = map(int, log_id.split("/")[1:])
    return {"_step": line, "attempt": attempt, "seq": seq}


def _step(value: Any, line: int) -> int:
    return round(value) if isinstance(value, int | float) and abs(value) < 2**53 else line


def _shown(row: Answer, axis: str, step: int) -> Answer:
    hidden = {*_HIDDEN, axis} if row.get(axis) == step else _HIDDEN
    return {name: value for name, value in row.items() if name not in hidden}


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _time(timestamp: float | None) -> str:
    return _now() if timestamp is None else datetime.fromtimestamp(timestamp, UTC).isoformat()


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
