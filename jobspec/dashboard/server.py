"""Serve the report live: the same page, refreshed when files change.

The server listens only on 127.0.0.1, answers only GET, and all its addresses begin with a secret
token. Without the token a request learns nothing, and no request can change anything. The files are
read every few seconds while the page is open, once for all readers.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jobspec.records import base as records

HOST = "127.0.0.1"
_PING_S = 10.0  # between comments on an event stream, which detect that it was closed
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Content:
    """The content of the page, and how often it is made again.

    Args:
        make: makes the content.
        interval_s: between two looks at the files, for an open event stream.
    """

    def __init__(self, make: Callable[[], str], interval_s: float) -> None:
        self._make = make
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._text = ""
        self._version = 0
        self._closed = threading.Event()

    def read(self) -> tuple[str, int]:
        """The present content, and how often it has changed so far."""
        with self._lock:
            made = self._make()
            if made != self._text:
                self._text, self._version = made, self._version + 1
            return self._text, self._version

    def wait(self) -> bool:
        """Wait until the next look; False once the server is closed."""
        return not self._closed.wait(self._interval_s)

    def close(self) -> None:
        self._closed.set()

    @property
    def pings(self) -> int:
        """Number of looks between two pings."""
        return max(1, round(_PING_S / self._interval_s))


class Server(ThreadingHTTPServer):
    """Serves a page and its content below a secret path.

    Args:
        page: makes the whole page.
        content: the part of it that is refreshed.
        port: 0 for any free port.

    Raises:
        OSError: the port is in use.
    """

    daemon_threads = True

    def __init__(self, page: Callable[[], str], content: Content, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.page = page
        self.content = content
        self.token = secrets.token_urlsafe(24)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def shutdown(self) -> None:
        self.content.close()
        super().shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride] - always made by this class
    protocol_version = "HTTP/1.1"
    server_version = "jobspec"
    sys_version = ""

    def do_GET(self) -> None:
        token, _, path = self.path.lstrip("/").partition("/")
        pages = {"": self._page, "content": self._content, "events": self._events}
        answer = pages.get(path.partition("?")[0])
        if answer is None or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._send(b"not found\n", "text/plain", HTTPStatus.NOT_FOUND)
        return answer()

    def _page(self) -> None:
        self._send(self.server.page().encode(), "text/html; charset=utf-8")

    def _content(self) -> None:
        self._send(self.server.content.read()[0].encode(), "text/html; charset=utf-8")

    def _events(self) -> None:
        """Send an event `changed`, with the time, whenever the content has changed."""
        self._begin("text/event-stream", HTTPStatus.OK)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        known, looks = self.server.content.read()[1], 0
        try:
            self.wfile.write(b"retry: 2000\n\n")
            while self.server.content.wait():
                version, looks = self.server.content.read()[1], looks + 1
                if version != known:
                    known = version
                    now = records.utc_now()[:19].replace("T", " ")
                    self.wfile.write(f"event: changed\ndata: {now} UTC\n\n".encode())
                elif looks % self.server.content.pings == 0:
                    self.wfile.write(b": ping\n\n")
        except OSError:
            return  # the reader has left

    def _begin(self, kind: str, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in _HEADERS.items():
            self.send_header(name, value)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._begin(kind, status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: every address contains the token."""
