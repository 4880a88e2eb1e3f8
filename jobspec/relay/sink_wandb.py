"""Rows sent to W&B through its own client. The only module that imports wandb."""

from __future__ import annotations

import json
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from jobspec.relay import wandb_file
from jobspec.relay.row_sink import Answer, Axes

_QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_X_DISABLE_STATS": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_X_DISABLE_MACHINE_INFO": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_X_SAVE_REQUIREMENTS": "false",
}
_FATAL = re.compile(rb"filestream: fatal error.*?failed to upload: (\d{3}[^:\"]*?)(?: url=|[:\"])")
_INIT_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 30.0
COUNTS = """query RelayCounts($entity: String, $project: String!{declared}) {{
  model(name: $project, entityName: $entity) {{ id {asked} }} }}"""
_ASKED = (
    "{0}: bucket(name: ${0}, missingOk: true) "
    "{{ name state summaryMetrics historyLineCount historyTail }}"
)
HISTORY = """query RelayHistory($entity: String, $project: String!, $name: String!,
                               $minStep: Int64!, $maxStep: Int64!) {
  project(name: $project, entityName: $entity) { run(name: $name) {
    state summaryMetrics history(minStep: $minStep, maxStep: $maxStep, samples: 100000) } } }"""


_RUNS = 50  # open at once in one process: memory and file descriptors


class WandbClient:
    """W&B as a destination."""

    def __init__(self, directory: Path, store: Path) -> None:
        del store
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self._dir = str(directory)
        self._runs: dict[str, Any] = {}
        self._api: Any = None

    def hello(self, offline: bool) -> dict[str, Any]:
        """Import wandb and, online, find the API key and its user."""

        if offline:
            return {"place": "", "entity": None, "runs": _RUNS, "exact": True}
        from wandb.apis.public.service_api import ServiceApi
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib import wbauth

        settings: Any = wandb_setup.singleton().settings.model_copy()
        auth = wbauth.authenticate_session(host=settings.base_url, source="relay", prompt=False)
        if auth is None:
            return {"refused": "no key"}
        settings = wandb_setup.singleton().settings.model_copy()
        self._api = ServiceApi(settings=settings, timeout=_REQUEST_TIMEOUT_S)
        who: Any = self._api.authenticate()
        base_url, entity = settings.base_url, who.default_entity or None
        return {"place": base_url, "entity": entity, "runs": _RUNS, "exact": True}

    def count(self, entity: str | None, project: str, ids: list[str]) -> dict[str, Any]:
        """What the server has of these runs; null for a run that it does not have."""
        names = {f"r{number}": name for number, name in enumerate(ids)}
        query = COUNTS.format(
            declared="".join(f", ${alias}: String!" for alias in names),
            asked=" ".join(_ASKED.format(alias) for alias in names),
        )
        given = {"entity": entity, "project": project, **names}
        model: dict[str, Any] = self._api.execute_graphql(query, given).get("model") or {}
        return {"runs": {name: _counted(model.get(alias)) for alias, name in names.items()}}

    def history(
        self, entity: str | None, project: str, name: str, first: int, beyond: int
    ) -> dict[str, Any]:
        """Rows `first` to `beyond - 1` of a run, as the server has them."""
        given = {"entity": entity, "project": project, "name": name}
        given |= {"minStep": first, "maxStep": beyond}
        found: dict[str, Any] = self._api.execute_graphql(HISTORY, given).get("project") or {}
        run: dict[str, Any] | None = found.get("run")
        if run is None:
            return {"run": None}
        lines: list[str] = run.get("history") or []
        rows = [json.loads(line) for line in lines]
        summary = json.loads(run.get("summaryMetrics") or "{}")
        return {"run": {"state": run.get("state"), "summary": summary, "rows": rows}}

    def read(self, path: str) -> dict[str, Any]:
        """An offline run's rows and summary from its file, and whether the file is complete."""
        pb: Any = import_module("wandb.proto.wandb_internal_pb2")
        rows: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        ended = False
        for data in wandb_file.records(Path(path)):
            record: Any = pb.Record.FromString(data)
            if record.HasField("history"):
                rows.append(_items(record.history.item))
            elif record.HasField("summary"):
                summary |= _items(record.summary.update)
            ended = ended or record.HasField("exit")
        return {"rows": rows, "summary": summary, "ended": ended}

    def open(self, id: str, facts: Answer, config: Answer, axes: Axes, **how: bool) -> Answer:
        """Start or resume a run; returns the step that the client would give its next row."""
        import wandb

        settings = wandb.Settings(
            init_timeout=_INIT_TIMEOUT_S,
            x_update_finish_state=how.get("ends", True),
            stop_fn=_go_on,
        )
        run: Any = wandb.init(
            reinit="create_new",
            id=id,
            config=config,
            dir=self._dir,
            mode="offline" if how.get("offline") else "online",
            resume=None if how.get("offline") else "allow",
            settings=settings,
            **facts,
        )
        for axis, pattern in axes:
            run.define_metric(axis)
            run.define_metric(pattern, step_metric=axis)
        # For a resumed run, `init` does not replace the config that the server has.
        run.config.update(config, allow_val_change=True)
        _stop_watching(run)
        self._runs[id] = run
        return {"starting_step": run.starting_step}

    def rows(self, id: str, first: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Log rows; row k becomes line `first + k`."""
        for step, values in enumerate(rows, start=first):
            # Without `commit` the client holds each row back until the next one comes.
            self._runs[id].log(values, step=step, commit=True)
        return {}

    def upload_error(self, id: str) -> dict[str, Any]:
        """Why the run's rows are not sent any more; null while the client sends them.

        Some answers of the server (401, 403, 404, 409, 413) end the client's upload of a run. It
        writes that to its log only: logging and finishing go on as if all were well.
        """
        return {"error": self._upload_error(self._runs[id])}

    def _upload_error(self, run: Any) -> str | None:
        try:
            found = _FATAL.search(Path(run.settings.log_internal).read_bytes())
        except OSError:
            return None
        return None if found is None else f"W&B answered {found[1].decode(errors='replace')}"

    def close(
        self, id: str, summary: dict[str, Any], exit_code: int, preempted: bool
    ) -> dict[str, Any]:
        """Finish a run, and wait until the client says that everything is sent."""
        run = self._runs.pop(id)
        run.summary.update(summary)
        if preempted:
            run.mark_preempting()
        run.finish(exit_code=exit_code)
        return {"error": self._upload_error(run)}

    def supersede(self, id: str, by: str, facts: Answer, config: Answer, axes: Axes) -> Answer:
        """Mark a run, since W&B cannot delete rows."""
        self.open(id, facts, config, axes)
        return self.close(id, {"relay/superseded_by": by}, exit_code=1, preempted=True)


def _go_on() -> None:
    """Ignore "stop run" from W&B's pages: this process has other runs open."""


def _stop_watching(run: Any) -> None:
    """Stop the thread by which the client watches a run.

    It only reports retries, and costs four times as much as sending the run's rows.
    """
    checker = getattr(run, "_run_status_checker", None)
    if checker is not None:
        checker.join()


def _counted(bucket: Any) -> dict[str, Any] | None:
    if bucket is None:
        return None
    tail = json.loads(bucket.get("historyTail") or "[]")
    return {
        "count": bucket.get("historyLineCount") or 0,
        "tail": json.loads(tail[-1]) if tail else None,
        "digest": json.loads(bucket.get("summaryMetrics") or "{}").get("relay/digest"),
        "state": bucket.get("state"),
    }


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
