"""Serve the report live: the same page, which is told what changes.

The server listens only on 127.0.0.1, answers only GET, and all its addresses begin with a secret
token. Without the token a request learns nothing, and no request can change anything. The files are
read every few seconds while a page is open, once for all readers.
"""

from __future__ import annotations

import hmac
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jobspec.dashboard.live import LiveRuns

HOST = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """Serves the page, its events and the details of runs below a secret path.

    Args:
        port: 0 for any free port.

    Raises:
        OSError: the port is in use.
    """

    daemon_threads = True

    def __init__(self, runs: LiveRuns, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.runs = runs
        self.token = secrets.token_urlsafe(24)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error, unless the browser has only closed its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def shutdown(self) -> None:
        self.runs.close()
        super().shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride] - always made by this class
    protocol_version = "HTTP/1.1"
    server_version = "jobspec"
    sys_version = ""

    def do_GET(self) -> None:
        token, _, path = self.path.partition("?")[0].lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._send_json(None)
        match path.split("/"):
            case [""]:
                return self._send(self.server.runs.page().encode(), "text/html; charset=utf-8")
            case ["events"]:
                return self._events()
            case ["run", name]:
                return self._send_json(self.server.runs.details(name))
            case ["pair", a, b]:
                return self._send_json(self.server.runs.pairs(a, b))
            case _:
                return self._send_json(None)

    def _events(self) -> None:
        """Send an event `runs` at first, and again whenever a row has changed."""
        self._begin("text/event-stream", HTTPStatus.OK)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        runs, known, looks = self.server.runs, None, 0
        try:
            self.wfile.write(b"retry: 2000\n\n")
            while True:
                known, told = runs.update(known)
                if told is not None:
                    self.wfile.write(b"event: runs\ndata: " + told + b"\n\n")
                elif looks % runs.pings == 0:
                    self.wfile.write(b": ping\n\n")
                if not runs.wait():
                    return
                looks += 1
        except OSError:
            return  # the reader has left

    def _begin(self, kind: str, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in _HEADERS.items():
            self.send_header(name, value)

    def _send_json(self, body: bytes | None) -> None:
        if body is None:
            return self._send(b"not found\n", "text/plain", HTTPStatus.NOT_FOUND)
        return self._send(body, "application/json")

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._begin(kind, status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: every address contains the token."""
