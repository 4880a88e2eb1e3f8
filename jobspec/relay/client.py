"""Start the process that runs a destination's client, ask it, wait for it, or kill it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobspec.relay.tracked_run import RelayError
from jobspec.spec.tracking_sinks import SINKS, WANDB
from jobspec.storage import tempfiles

_PATIENCE_S = 150.0
ROWS_PATIENCE_S = 60.0  # the client only queues rows; opening a run asks the server
_TAIL = 5  # lines of what the client printed, for messages


class Refused(RelayError):  # noqa: N818 - reads as what happened
    """The client, or the server behind it, refused a request."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind
        self.text = message

    @property
    def deleted(self) -> bool:
        """Whether the server says that this run was deleted: its id cannot be used again."""
        return "deleted" in self.text

    @property
    def is_final(self) -> bool:
        """Whether trying again cannot help."""
        if self.kind == "UsageError":  # wandb does not accept a name
            return True
        signs = ("401", "403", "404", "permission", "not found", "deleted")
        return any(sign in self.text for sign in signs)


class ClientProcess:
    """One client process. Its directory and wandb's own process go when it does.

    Args:
        tick: called twice a second while waiting for an answer.
        sink: which destination it writes to.
        store: where a destination without a server keeps its runs.
    """

    def __init__(
        self,
        tick: Callable[[], None] = lambda: None,
        *,
        offline: bool = False,
        sink: str = WANDB,
        store: Path | None = None,
    ) -> None:
        _sweep(Path(tempfile.gettempdir()))
        owner = f"{tempfiles.pid_space()}-{os.getpid()}"
        self.dir = Path(tempfile.mkdtemp(prefix=f"jobspec-relay-{owner}-"))
        self._tick = tick
        self._log = (self.dir / "client.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jobspec.relay.client_main", sink, self.dir, store or self.dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only the relay; all children can be killed
            env={**os.environ, "WANDB_DIR": str(self.dir)},
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._why_dead = ""
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.hello = self.ask("hello", offline=offline)
        except BaseException:
            self.kill()
            raise

    def ask(self, op: str, *, patience_s: float = _PATIENCE_S, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            Refused: the client refused, died, or did not answer in time. In the last two cases it
                cannot be used any more (`alive` is False).
        """
        assert self._process.stdin is not None
        if self._process.stdin.closed:  # it died during another run's request
            raise Refused("the client died", self._why_dead)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"op": op, **request}) + "\n")
            self._process.stdin.flush()
        answer = self._wait(time.monotonic() + patience_s)
        if answer is None:
            self._why_dead = f"`{op}` took more than {patience_s:.0f} s"
            self.kill()
            raise Refused("the client does not answer", self._why_dead)
        if not answer:
            # The end of its output is read only once: later requests must not wait for another.
            self._why_dead = self._last_output()
            self.kill()
            raise Refused("the client died", self._why_dead)
        decoded: dict[str, Any] = json.loads(answer)
        if "refused" in decoded:
            message = _one_line(str(decoded.get("message", "")))
            raise Refused(str(decoded["refused"]), message)
        return decoded

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Kill the process and remove its files; wandb's own process ends a second later.

        May be called more than once, and for a client that has died.
        """
        if self._log.closed:
            return  # another process may have its id by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _wait(self, deadline: float) -> str | None:
        """The next line; empty if the process died, None if it did not answer in time."""
        while time.monotonic() < deadline:
            self._tick()
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=0.5)
        return None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put("")

    def _last_output(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(0)
            return _one_line(" ".join(self._log.read().splitlines()[-_TAIL:]))
        return ""


def connect(
    tick: Callable[[], None] = lambda: None,
    *,
    offline: bool = False,
    sink: str = WANDB,
    store: Path | None = None,
) -> ClientProcess:
    """Start a client and check that it works.

    Raises:
        RelayError: its package is not installed, there is no key, the server refuses the key, or
            its directory cannot be written.
    """
    try:
        return ClientProcess(tick, offline=offline, sink=sink, store=store)
    except Refused as error:
        raise _explained(error, sink, store) from error


def _sweep(directory: Path) -> None:
    """Remove what the clients of killed relays left: copies of rows, and logs."""
    for path in directory.glob("jobspec-relay-*-*-*"):
        space, pid = path.name.split("-")[2:4]
        if space == str(tempfiles.pid_space()) and pid.isdigit() and not tempfiles.lives(int(pid)):
            shutil.rmtree(path, ignore_errors=True)  # fails for another user's, which stays


def _explained(error: Refused, sink: str, store: Path | None) -> RelayError:
    if error.kind == "no package":
        needed = SINKS[sink]
        return RelayError(
            f"the relay needs {needed.package}, which is not installed",
            hint=f"run: {needed.command}",
        )
    if sink != WANDB:
        hint = "can you write there?"
        return RelayError(f"`{sink}` cannot be used: {error.message}", file=store, hint=hint)
    if error.kind == "no key":
        return RelayError(
            "no W&B API key",
            hint="set WANDB_API_KEY in the environment, or run `wandb login`",
        )
    hint = "check WANDB_API_KEY, WANDB_BASE_URL and the network; `--offline` needs none of them"
    if "did not respond in time" in error.text:  # wandb blames its own process
        return RelayError("W&B does not answer or cannot be reached", hint=hint)
    return RelayError(f"W&B refused the connection: {error.message}", hint=hint)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
