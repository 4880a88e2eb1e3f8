"""A TCP connection that carries small messages, a JSON object a line. Standard library only."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

_MOST_BYTES = 65536  # of a line: what is longer is no message of ours
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
_UNHEARD_MS = 25_000


class Link:
    """One end of a connection. A peer whose host is gone shows as closed within half a minute."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unread = b""
        self.open = True
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(10.0)
        with contextlib.suppress(OSError):  # not every kernel takes these
            for name, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD_MS)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def here(self) -> str:
        """This end's address, as the peer reached it."""
        return _plain(self._socket.getsockname()[0])

    @property
    def there(self) -> str:
        """The peer's address."""
        return _plain(self._socket.getpeername()[0])

    def send(self, **message: Any) -> None:
        """Send a message; a peer that is gone is found out by the next `receive`."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.open = False

    def receive(self) -> list[dict[str, Any]]:
        """What has arrived; call it when the socket can be read. `open` is False at the end."""
        try:
            data = self._socket.recv(_MOST_BYTES)
        except OSError:
            data = b""
        *lines, self._unread = (self._unread + data).split(b"\n")
        messages = [_decoded(line) for line in lines]
        if not data or None in messages or len(self._unread) > _MOST_BYTES:
            self.open = False
        return [message for message in messages if message is not None]

    def close(self) -> None:
        """End the connection; the peer sees it at once."""
        self.open = False
        self._socket.close()


def _plain(address: str) -> str:
    """An address as IPv4 where it is one in IPv6's clothes."""
    return address.removeprefix("::ffff:")


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
