"""The report live: the same page from a server on this machine, renewed as files change.

It listens on 127.0.0.1 alone, every address of it begins with a secret token, and it answers GET
and nothing else: whoever reaches the port without the token learns nothing, and nobody changes
anything. The files are read every few seconds while somebody looks, for all of them together.
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
_PING_S = 10.0  # a comment on an event stream, by which closed ones are noticed
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Content:
    """What is shown, made anew when it is asked for and older than `interval_s`.

    Args:
        make: makes it; what it raises is told instead, and the last good one kept.
    """

    def __init__(self, make: Callable[[], str], interval_s: float) -> None:
        self._make = make
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._text = ""
        self._version = 0
        self._closed = threading.Event()

    def read(self) -> tuple[str, int]:
        """The content as it is now, and how often it has changed so far."""
        with self._lock:
            made = self._make()
            if made != self._text:
                self._text, self._version = made, self._version + 1
            return self._text, self._version

    def wait(self) -> bool:
        """Until the next look; False once the server ends."""
        return not self._closed.wait(self._interval_s)

    def close(self) -> None:
        self._closed.set()

    @property
    def pings(self) -> int:
        """Looks between two signs of life."""
        return max(1, round(_PING_S / self._interval_s))


class Server(ThreadingHTTPServer):
    """Serves a page and its content below a secret path.

    Args:
        page: makes the whole page.
        content: what of it is renewed.
        port: 0 for any free one.

    Raises:
        OSError: the port is taken.
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
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride] - made by no other
    protocol_version = "HTTP/1.1"
    server_version = "jobspec"
    sys_version = ""

    def do_GET(self) -> None:
        token, _, place = self.path.lstrip("/").partition("/")
        pages = {"": self._page, "content": self._content, "events": self._events}
        answer = pages.get(place.partition("?")[0])
        if answer is None or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._send(b"not found\n", "text/plain", HTTPStatus.NOT_FOUND)
        return answer()

    def _page(self) -> None:
        self._send(self.server.page().encode(), "text/html; charset=utf-8")

    def _content(self) -> None:
        self._send(self.server.content.read()[0].encode(), "text/html; charset=utf-8")

    def _events(self) -> None:
        """Server-sent events: `changed`, with the time, whenever the content has."""
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
                    said = (
                        f"event: changed\ndata: {records.utc_now()[:19].replace('T', ' ')} UTC\n\n"
                    )
                    self.wfile.write(said.encode())
                elif looks % self.server.content.pings == 0:
                    self.wfile.write(b": still here\n\n")
        except OSError:
            return  # the reader has gone

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
        """Nothing: the token stands in every address."""
