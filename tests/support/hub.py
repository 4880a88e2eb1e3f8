"""A hub on this machine: enough of its HTTP interface for huggingface_hub and datasets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.servers import http_server

COMMIT = "a" * 40
# (kind, repository) → its files
Repositories = Mapping[tuple[str, str], Mapping[str, bytes]]


@contextmanager
def hub(repositories: Repositories) -> Iterator[str]:
    """Serve repositories; yields the endpoint, for HF_ENDPOINT."""
    with http_server(_handler(repositories)) as endpoint:
        yield endpoint


def _handler(repositories: Repositories) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None: ...

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            for pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found is not None:
                    return self._send(*answer(repositories, found))
            return self._send({"error": "no such page"}, 404, {})

        do_HEAD = do_POST = do_GET  # noqa: N815 - http.server's spelling

        def _send(self, body: Any, code: int, headers: dict[str, str]) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
            self.send_response(code)
            for name, value in {"Content-Type": kind, **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


def _info(repositories: Repositories, found: re.Match[str]) -> tuple[Any, int, dict[str, str]]:
    files = repositories.get((found[1], found[2]))
    if files is None:
        return {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"}
    siblings = [{"rfilename": name} for name in files]
    info = {"id": found[2], "sha": COMMIT, "private": False, "gated": False, "disabled": False}
    return {**info, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings}, 200, {}


def _tree(repositories: Repositories, found: re.Match[str]) -> tuple[Any, int, dict[str, str]]:
    files = repositories[found[1], found[2]]
    return (
        [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
            if name.startswith(found[3])
        ],
        200,
        {},
    )


def _file(repositories: Repositories, found: re.Match[str]) -> tuple[Any, int, dict[str, str]]:
    files = repositories.get(("datasets" if found[1] else "models", found[2]), {})
    if found[3] not in files:
        missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        return {"error": "Entry not found"}, 404, missing
    data = files[found[3]]
    tag = f'"{hashlib.sha1(data).hexdigest()}"'
    return data, 200, {"ETag": tag, "X-Repo-Commit": COMMIT}


_REPOSITORY = r"/api/(models|datasets)/([^/]+/[^/]+)"
_ROUTES = (
    (rf"{_REPOSITORY}(?:/revision/[^/]+)?", _info),
    (rf"{_REPOSITORY}/tree/[^/]+/?(.*)", _tree),
    (r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.*)", _file),
)
