"""Where `jobspec notify` sends its messages: a webhook, a mail address, a command.

URLs and commands can hold secrets. They appear in no file of the root and in no message: `name` is
what users see, and `key` is a slow one-way hash, cut so short that it identifies nothing.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol

import msgspec

from jobspec.errors import JobspecError
from jobspec.monitoring.events import Event

_TIMEOUT_S = 20.0
_COMMAND_TIMEOUT_S = 60.0
_ITERATIONS = 200_000
_SENDMAIL_PATH = "/usr/sbin:/usr/lib:/sbin"
WEBHOOK_FORMATS = ("auto", "text", "ntfy", "json")


class DeliveryError(JobspecError):
    """A destination did not accept a message."""


class Destination(Protocol):
    """Accepts messages. `name` is shown to users; neither it nor `key` contains a secret."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...

    def send(self, event: Event, root: Path) -> None:
        """Send one message. Raises DeliveryError unless the destination accepted it."""
        ...


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Following a redirect would turn the POST into a GET, which delivers nothing."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


class Webhook:
    """A URL that accepts POST requests: Slack, Mattermost, Discord, ntfy or your own.

    Args:
        url: http or https; a user and password in it are sent as HTTP basic authentication.
        form: one of WEBHOOK_FORMATS; `auto` decides by the host's name.
    """

    def __init__(self, url: str, form: str = "auto") -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urllib.parse.urlsplit(""), None, None
        printable = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme not in ("http", "https") or not host or not printable:
            raise JobspecError(
                "the webhook is not a URL that begins with http:// or https://",
                hint="copy it from the page that created the webhook",
            )
        self.name = f"the webhook at {host}"
        self.key = _key("webhook", url)
        self._form = form if form != "auto" else _form_for(host)
        place = f"[{host}]" if ":" in host else host
        netloc = f"{place}:{port}" if port is not None else place
        self._url = urllib.parse.urlunsplit((parts.scheme, netloc, parts.path, parts.query, ""))
        self._headers = _basic_authentication(parts)

    def send(self, event: Event, root: Path) -> None:
        body, headers = _body(self._form, event, root)
        request = urllib.request.Request(
            self._url, body, {**headers, **self._headers}, method="POST"
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as answer:
                answer.read(4096)
        except urllib.error.HTTPError as error:
            error.close()
            raise DeliveryError(f"it answered {error.code}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The text of other errors can contain the URL.
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            why = (cause.strerror if isinstance(cause, OSError) else None) or type(cause).__name__
            raise DeliveryError(f"no answer: {why}") from None


class Mail:
    """A mail address, reached through this host's `sendmail` program, as cron does."""

    def __init__(self, address: str) -> None:
        if "@" not in address[1:-1] or address.startswith("-") or not address.isprintable():
            raise JobspecError(
                f"`{address}` is not a mail address", hint="write it like me@uni.edu"
            )
        program = shutil.which("sendmail", path=f"{os.environ.get('PATH', '')}:{_SENDMAIL_PATH}")
        if program is None:
            raise JobspecError(
                "this host has no `sendmail` program to send mail with",
                hint="run it on another login node, or use --webhook or --command",
            )
        self.name = f"the mail address {address}"
        self.key = _key("mail", address)
        self._address = address
        self._program = program

    def send(self, event: Event, root: Path) -> None:
        message = EmailMessage()
        message["To"] = self._address
        message["Subject"] = f"jobspec: {event.title}"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(f"{event.text}\n\n{root}\n")
        _run([self._program, "-i", "-t"], message.as_bytes(), {})


class Command:
    """A shell command. It gets the text on stdin and the event in JOBSPEC_* variables."""

    name = "the command"

    def __init__(self, command: str) -> None:
        self.key = _key("command", command)
        self._command = command

    def send(self, event: Event, root: Path) -> None:
        facts = {
            "JOBSPEC_EVENT": event.kind,
            "JOBSPEC_TITLE": event.title,
            "JOBSPEC_TEXT": event.text,
            "JOBSPEC_ROOT": str(root),
        }
        _run(["/bin/sh", "-c", self._command], event.text.encode() + b"\n", facts)


def _run(command: list[str], text: bytes, facts: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command,
            input=text,
            stdout=sys.stderr.fileno(),
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
            env={**os.environ, **facts},
        )
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"it did not end within {_COMMAND_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise DeliveryError(f"it can't be run: {error.strerror}") from None
    if done.returncode:
        raise DeliveryError(f"it exited with {done.returncode}")


def _form_for(host: str) -> str:
    if host == "ntfy" or host.startswith("ntfy.") or ".ntfy." in host:
        return "ntfy"
    return "discord" if host in ("discord.com", "discordapp.com") else "text"


def _body(form: str, event: Event, root: Path) -> tuple[bytes, dict[str, str]]:
    """The request's body and headers. `text` is what Slack, Mattermost and others accept."""
    if form == "ntfy":
        urgent = {"Priority": "default" if event.kind == "all-done" else "high"}
        return event.text.encode(), {"Title": f"jobspec: {event.title}", **urgent}
    content: dict[str, str] = {
        "event": event.kind,
        "title": event.title,
        "text": event.text,
        "root": str(root),
    }
    if form != "json":
        field = "content" if form == "discord" else "text"
        content = {field: f"{event.title}\n{event.text}\n{root}"}
    return msgspec.json.encode(content), {"Content-Type": "application/json"}


def _basic_authentication(parts: urllib.parse.SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    user, password = map(urllib.parse.unquote, (parts.username, parts.password or ""))
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _key(kind: str, text: str) -> str:
    salt = b"jobspec notify"
    return f"{kind}-{hashlib.pbkdf2_hmac('sha256', text.encode(), salt, _ITERATIONS).hex()[:8]}"
