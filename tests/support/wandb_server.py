"""A server on loopback that the real wandb client takes for W&B, and that fails as it is told to.

It speaks the operations that the client uses to begin, resume and feed a run, and keeps what
arrived: history lines by their offset, as W&B does, and how often each offset was written. Faults
are answers (429, 500 …), connections dropped before or after the request was carried out, and
counts that are shown late. `python -m tests.support.wandb_server` runs it as a process of its
own, for benchmarks.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.support.servers import http_server

KEY = "0123456789abcdef" * 2 + "01234567"
ENTITY = "someone"
# None: go on. A number: answer that. "drop": close the connection; "drop after": once it is done.
Fault = Callable[[str], int | str | None]


@dataclass
class Run:
    """One run as the server has it."""

    entity: str
    project: str
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)  # history by offset
    seen: list[tuple[float, int]] = field(default_factory=list)  # (when, lines there were then)
    rewritten: int = 0  # lines that came to an offset which held another
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    preempting: bool = False
    opened: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[n]) for n in sorted(self.lines)]

    @property
    def config(self) -> dict[str, Any]:
        found = json.loads(self.facts.get("config") or "{}")
        return {key: value["value"] for key, value in found.items() if key != "_wandb"}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What define_metric said, as the client encodes it."""
        found = json.loads(self.facts.get("config") or "{}")
        return found.get("_wandb", {}).get("value", {}).get("m", [])

    @property
    def state(self) -> str:
        """As W&B would show it."""
        if self.exit_code is None:
            return "running"
        if self.exit_code == 0:
            return "finished"
        return "preempted" if self.preempting else "failed"

    def count(self, lag_s: float) -> int:
        """History lines, as a reader is told who sees them `lag_s` late."""
        if not lag_s:
            return len(self.lines)
        before = time.monotonic() - lag_s
        return max((lines for when, lines in self.seen if when <= before), default=0)

    def store(self, offset: int, content: list[str]) -> None:
        for number, line in enumerate(content, start=offset):
            self.rewritten += self.lines.get(number, line) != line
            self.lines[number] = line
        self.seen.append((time.monotonic(), len(self.lines)))


class Server:
    """The service. Use `with Server() as server:` and give `server.environment` to the relay."""

    def __init__(self, port: int = 0) -> None:
        self.runs: dict[tuple[str, str, str], Run] = {}
        self.deleted: set[tuple[str, str, str]] = set()
        self.forbidden: set[str] = set()  # projects that do not exist and can't be made
        self.closed: set[str] = set()  # projects that this key may not look into
        self.requests: list[str] = []
        self.keys: set[str] = set()  # authorizations that came
        self.fault: Fault = lambda what: None
        self.lag_s = 0.0
        self.most_lines = 1_000_000  # of history in one request; 413 for more
        self.stale = 0  # the number of next answers that show runs as if nothing had arrived
        self.lock = threading.RLock()
        self.url = ""  # once it runs
        self._http = http_server(_handler(self), port)

    @property
    def environment(self) -> dict[str, str]:
        """For the relay: where to send, with which key; retries that tests can wait for."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            # Whole seconds: the client takes less for none, and goes by its defaults.
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "WANDB_X_FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
            "WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "2",
            "WANDB_X_GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
            "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "2",
        }

    def __enter__(self) -> Server:
        self.url = self._http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.__exit__(None, None, None)

    def run(self, name: str) -> Run:
        """The one run of that id."""
        with self.lock:
            (found,) = [run for (_, _, mine), run in self.runs.items() if mine == name]
            return found

    def delete(self, name: str) -> None:
        with self.lock:
            (key,) = [key for key in self.runs if key[2] == name]
            del self.runs[key]
            self.deleted.add(key)

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        before, self.fault = self.fault, fault
        try:
            yield
        finally:
            self.fault = before

    # What it answers

    def graphql(self, query: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        named = re.search(r"(?:query|mutation)\s+(\w+)", query)
        answer = getattr(self, f"_{named[1] if named else ''}", None)
        if answer is None:
            return 400, {"errors": [{"message": f"unknown operation {query[:80]}"}]}
        with self.lock:
            return answer(variables)

    def _Viewer(self, _: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802 - as in GraphQL
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "a@b.c", "flags": "{}"}
        return 200, {"data": {"viewer": viewer | {"teams": {"edges": []}}}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802
        run = self.runs.get(_key(given["entity"], given["project"], given["name"]))
        self.stale -= self.stale > 0
        model = self._model(given) | {"bucket": None if run is None else self._bucket(run)}
        return 200, {"data": {"model": model}}

    def _RelayCounts(self, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802
        entity, project = given.get("entity"), given["project"]
        self.stale -= self.stale > 0
        if project in self.closed:
            return 403, {"errors": [{"message": "permission denied"}]}
        model: dict[str, Any] = {"id": "m"}
        for alias, name in given.items():
            if alias.startswith("r"):
                run = self.runs.get(_key(entity, project, name))
                model[alias] = None if run is None else self._bucket(run)
        known = any(key[:2] == _key(entity, project, "")[:2] for key in self.runs)
        return 200, {"data": {"model": model if known else None}}

    def _RelayHistory(self, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802
        run = self.runs.get(_key(given.get("entity"), given["project"], given["name"]))
        if run is None:
            return 200, {"data": {"project": {"run": None}}}
        first, beyond = given["minStep"], given["maxStep"]
        lines = [json.dumps(row) for row in run.rows if first <= row["_step"] < beyond]
        summary = json.dumps(run.summary)
        found = {"state": run.state, "summaryMetrics": summary, "history": lines}
        return 200, {"data": {"project": {"run": found}}}

    def _UpsertBucket(self, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802
        entity, project, name = given.get("entity"), given.get("project"), given["name"]
        key = _key(entity, project, name)
        if project in self.forbidden:
            return 404, {"errors": [{"message": f"project {project} not found"}]}
        if key in self.deleted:
            said = f"run {name} was previously created and deleted; try a new run id"
            return 409, {"errors": [{"message": said}]}
        inserted = key not in self.runs
        run = self.runs.setdefault(key, Run(*key))
        run.facts |= {name: value for name, value in given.items() if value is not None}
        run.opened += 1
        if run.exit_code is not None:  # resumed
            run.exit_code, run.preempting = None, False
        bucket = {
            "id": "b",
            "name": name,
            "displayName": run.facts.get("displayName"),
            "description": None,
            "config": run.facts.get("config"),
            "sweepName": None,
            "project": self._model(given) | {"name": key[1]},
            "historyLineCount": self._count(run),
        }
        return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": inserted}}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/put"} for name in given.get("files", [])]
        return 200, {
            "data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        }

    def _model(self, given: dict[str, Any]) -> dict[str, Any]:
        entity = given.get("entity") or ENTITY
        return {"id": "m", "name": given.get("project"), "entity": {"id": "e", "name": entity}}

    def _count(self, run: Run) -> int:
        return 0 if self.stale else run.count(self.lag_s)

    def _bucket(self, run: Run) -> dict[str, Any]:
        count = self._count(run)
        tail = [run.lines[count - 1]] if count else []
        return {
            "id": "b",
            "name": run.name,
            "displayName": run.facts.get("displayName"),
            "state": run.state,
            "summaryMetrics": json.dumps({} if self.stale else run.summary),
            "historyLineCount": count,
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": run.facts.get("config") or "{}",
            "tags": [],
            "notes": None,
            "wandbConfig": '{"t":1}',
        }

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/graphql":
            return self.graphql(body["query"], body.get("variables") or {})
        if path.endswith("/file_stream"):
            return self.stream(path, body), {}
        return 404, {}

    def stream(self, path: str, body: dict[str, Any]) -> int:
        entity, project, name = (unquote(part) for part in path.split("/")[2:5])
        with self.lock:
            run = self.runs.get((entity, project, name))
            if run is None:
                return 404
            for file, chunk in (body.get("files") or {}).items():
                if file == "wandb-history.jsonl":
                    if len(chunk["content"]) > self.most_lines:
                        return 413
                    run.store(chunk["offset"], chunk["content"])
                elif file == "wandb-summary.json":
                    run.summary |= json.loads(chunk["content"][-1])
            run.preempting = run.preempting or bool(body.get("preempting"))
            if body.get("complete"):
                run.exit_code = body.get("exitcode", 0)
        return 200


def _key(entity: str | None, project: str | None, name: str) -> tuple[str, str, str]:
    return entity or ENTITY, project or "uncategorized", name


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self._body() or b"{}")
            operation = re.search(r"(?:query|mutation)\s+(\w+)", body.get("query", ""))
            what = operation[1] if operation else self.path.rpartition("/")[2]
            with server.lock:
                server.requests.append(what)
                server.keys.add(self.headers.get("Authorization", ""))
            fault = server.fault(what)
            if fault == "drop":
                self.close_connection = True
                return
            if isinstance(fault, int):
                self._answer(fault, {"errors": [{"message": f"told to answer {fault}"}]})
                return
            status, answer = server.answer(self.path, body)
            if fault == "drop after":
                self.close_connection = True
                return
            self._answer(status, answer)

        def do_GET(self) -> None:
            with server.lock:
                self._answer(200, {run.name: len(run.lines) for run in server.runs.values()})

        def do_PUT(self) -> None:
            self._body()
            self._answer(200, {})

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, status: int, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    return Handler


if __name__ == "__main__":
    with Server() as alone:
        sys.stdout.write(f"{alone.url}\n")
        sys.stdout.flush()
        threading.Event().wait()
