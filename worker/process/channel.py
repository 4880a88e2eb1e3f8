"""A TCP connection for small messages, one JSON object per line. Standard library only."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

_MAX_LINE_BYTES = 65536  # our messages are shorter
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
_UNHEARD_MS = 25_000


class Connection:
    """One end of a connection. If the peer's host dies, it is closed within half a minute."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unread = b""
        self.open = True
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(10.0)
        with contextlib.suppress(OSError):  # some kernels do not support these options
            for name, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD_MS)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def here(self) -> str:
        """This end's address, as the peer sees it."""
        return _plain(self._socket.getsockname()[0])

    @property
    def there(self) -> str:
        """The peer's address."""
        return _plain(self._socket.getpeername()[0])

    def send(self, **message: Any) -> None:
        """Send a message. A closed connection is reported by the next `receive`."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.open = False

    def receive(self) -> list[dict[str, Any]]:
        """The messages that arrived, once the socket is readable. `open` is False at the end."""
        try:
            data = self._socket.recv(_MAX_LINE_BYTES)
        except OSError:
            data = b""
        *lines, self._unread = (self._unread + data).split(b"\n")
        messages = [_decoded(line) for line in lines]
        if not data or None in messages or len(self._unread) > _MAX_LINE_BYTES:
            self.open = False
        return [message for message in messages if message is not None]

    def close(self) -> None:
        """Close the connection; the peer notices at once."""
        self.open = False
        self._socket.close()


def _plain(address: str) -> str:
    """The address without the prefix of an IPv4 address mapped to IPv6."""
    return address.removeprefix("::ffff:")


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
