"""Servers and services that tests start for themselves, on this machine."""

from __future__ import annotations

import http.server
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

Service = TypeVar("Service")


def started(
    missing: Callable[[], str | None],
    running: Callable[[Path], AbstractContextManager[Service]],
    prefix: str,
) -> Iterator[Service]:
    """The body of a fixture: the service while tests need it, or a skip that says what is missing.

    Args:
        missing: why it can't run here; None where it can.
        running: starts it in a directory, and ends it.
        prefix: what that directory's name begins with; sockets need a short one.
    """
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as base,
        running(Path(base)) as service,
    ):
        yield service


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Do not print that a client was killed in the middle of a request: some tests do that."""


@contextmanager
def http_server(handler: type[http.server.BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Answer HTTP requests in a thread; yields the URL. Port 0: a free one."""
    server = _HttpServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
