"""`jobspec notify`: each event is reported once, whatever is killed, and no secret is written."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobspec.errors import JobspecError
from jobspec.monitoring import destinations, events, notifier
from jobspec.monitoring.destinations import DeliveryError
from jobspec.monitoring.events import Event, Watch
from jobspec.monitoring.notifier import Notifier
from jobspec.queue.queue import Queue
from jobspec.storage import fs, handover_lock
from tests.support.commands import environment, jobspec, jobspec_json
from tests.support.faulty_os import fork
from tests.support.queues import W, fail, queue_at, send_heartbeat, succeed
from tests.support.servers import http_server
from tests.support.specs import base_spec
from tests.support.waiting import until

SECRET = "T0SECRET/B0SECRET"


class Hooks(http.server.BaseHTTPRequestHandler):
    """A server of webhooks that keeps what arrives."""

    requests: list[tuple[dict[str, str], bytes]]
    status: int
    hang_s: float

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.hang_s)
        if self.status == 200:
            self.requests.append((dict(self.headers), body))
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Kept", (Hooks,), {"requests": [], "status": 200, "hang_s": 0.0})
    with http_server(handler) as url:
        yield SimpleNamespace(url=f"{url}/services/{SECRET}", handler=handler)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return queue_at(tmp_path, lease_s=1.0)


def watch(queue: Queue, name: str = "x", grace_s: float = 0.0, free: float = 0.0) -> Watch:
    return Watch(queue, queue.paths.notices(name), free_percent=free, grace_s=grace_s)


def kinds(watching: Watch) -> list[str]:
    found = watching.due()
    for event in found:
        watching.record(event)
    return [event.kind for event in found]


def texts(hooks: Any) -> list[str]:
    return [json.loads(body)["text"] for _, body in hooks.handler.requests]


def everything_below(directory: Path) -> bytes:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


# Events


def test_what_happened_before_the_first_start_is_not_reported(queue: Queue) -> None:
    fail(queue, base_spec(notes="old"), "old")
    assert kinds(watch(queue)) == []
    job = fail(queue, base_spec(notes="new"), "row 17", "look at it")
    (event, *rest) = watch(queue).due()
    assert event.title == f"job failed: {job.id}" and "row 17" in event.text
    assert [each.kind for each in rest] == ["all-done"]


def test_a_failure_is_reported_once_for_each_time_the_job_failed(queue: Queue) -> None:
    first = watch(queue)
    job = fail(queue, base_spec(), "x")
    assert kinds(first) == ["failed", "all-done"]
    assert kinds(first) == kinds(watch(queue)) == []
    queue.retry(job.id)
    send_heartbeat(queue, W, None)
    claim = queue.claim(W)
    assert claim is not None and kinds(first) == []
    claim.finish("failed")
    assert kinds(first) == ["failed", "all-done"]


def test_many_failures_are_one_message(queue: Queue) -> None:
    watching = watch(queue)
    for number in range(12):
        fail(queue, base_spec(notes=str(number)), "disk quota")
    event = watching.due()[0]
    assert event.title == "12 jobs failed" and "and 2 more" in event.text
    assert kinds(watching) == ["failed", "all-done"] and kinds(watch(queue)) == []


def test_all_done_is_reported_again_only_after_more_jobs(queue: Queue) -> None:
    watching = watch(queue)
    assert kinds(watching) == []  # an empty queue
    job = succeed(queue, base_spec(notes="1"), {"x": 1.0})
    assert kinds(watching) == ["all-done"]
    fs.remove(job.entry.path(queue.paths))
    assert kinds(watching) == kinds(watch(queue)) == []
    succeed(queue, base_spec(notes="2"), {"x": 1.0})  # ended between two reads
    assert kinds(watch(queue)) == ["all-done"]


def test_jobs_without_a_worker_are_reported_after_a_while_and_once(queue: Queue) -> None:
    assert kinds(watch(queue, grace_s=3600.0)) == []
    queue.enqueue(base_spec())
    assert kinds(watch(queue, grace_s=3600.0)) == []
    assert kinds(watch(queue)) == ["no-worker"]
    assert kinds(watch(queue)) == []
    send_heartbeat(queue, W, None)
    assert kinds(watch(queue)) == []
    queue.retire(W)
    queue.hold("maintenance")
    assert kinds(watch(queue)) == []
    queue.release()
    assert kinds(watch(queue)) == ["no-worker"]


@pytest.mark.parametrize("scarce", ["f_bavail", "f_favail"])
def test_a_disk_that_fills_is_reported_once_until_it_has_recovered(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, scarce: str
) -> None:
    real = os.statvfs(queue.paths.root)
    facts = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")}
    facts |= {"f_blocks": 1000, "f_bavail": 900, "f_files": 1000, "f_favail": 900}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**facts))
    seen: list[list[str]] = []
    for free in (900, 40, 30, 60, 40, 80, 40):
        facts[scarce] = free
        seen.append(kinds(watch(queue, free=5.0)))
    assert seen == [[], ["disk"], [], [], [], [], ["disk"]]


def test_an_event_that_cannot_be_recorded_on_a_full_disk_is_sent_once(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = watch(queue)
    fail(queue, base_spec(), "x")

    def full(*_: object) -> None:
        raise events.DiskFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "publish_together", full)
        assert kinds(watching) == ["failed", "all-done"]
        assert kinds(watching) == []
    assert kinds(watching) == []
    assert kinds(watch(queue)) == []


# Delivery


def test_slack_gets_the_text_and_no_secret_is_written(
    queue: Queue, hooks: Any, tmp_path: Path
) -> None:
    notify = ("notify", "--root", queue.paths.root, "--once")
    jobspec(*notify, JOBSPEC_WEBHOOK=hooks.url)
    job = fail(queue, base_spec(), "row 17: no final turn")
    shown = jobspec(*notify, JOBSPEC_WEBHOOK=hooks.url)
    assert f"the webhook at 127.0.0.1: job failed: {job.id}" in shown.stdout
    assert jobspec_json(*notify, "--webhook", hooks.url) == {
        "schema": 1,
        "sent": [],
        "problems": [],
    }
    failed, done = texts(hooks)
    assert failed.startswith(f"job failed: {job.id}\n") and "row 17: no final turn" in failed
    assert done.startswith("all jobs have ended\n1 failed")
    hooks.handler.status = 404
    fail(queue, base_spec(notes="2"), "x")
    shown = jobspec(*notify, "--webhook", hooks.url, code=1)
    assert "was not delivered to the webhook at 127.0.0.1: it answered 404" in shown.stderr
    assert "SECRET" not in shown.stdout + shown.stderr
    assert b"SECRET" not in everything_below(tmp_path)
    hooks.handler.status = 200
    assert len(jobspec_json(*notify, "--webhook", hooks.url)["sent"]) == 2


@pytest.mark.parametrize("form", ["ntfy", "json", "discord"])
def test_other_services_get_what_they_expect(queue: Queue, hooks: Any, form: str) -> None:
    event = Event(kind="failed", title="job failed: x", text="line 1\nline 2", notices={})
    url = hooks.url.replace("://", "://ada:p%40ss@")
    destinations.Webhook(url, form).send(event, queue.paths.root)
    ((headers, body),) = hooks.handler.requests
    assert headers["Authorization"] == "Basic YWRhOnBAc3M="
    if form == "ntfy":
        assert body == b"line 1\nline 2" and headers["Title"] == "jobspec: job failed: x"
        return
    content = json.loads(body)
    assert content["event" if form == "json" else "content"].startswith(
        "failed" if form == "json" else "job failed: x\nline 1"
    )


@pytest.mark.parametrize(
    ("host", "form"), [("ntfy.sh", "ntfy"), ("hooks.slack.com", "text"), ("discord.com", "discord")]
)
def test_the_form_follows_from_the_host(host: str, form: str) -> None:
    assert destinations._form_for(host) == form  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    "url", [f"ftp://h/{SECRET}", SECRET, f"http://h:{SECRET}", f"https://h/a b/{SECRET}", "file:/x"]
)
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(JobspecError) as refused:
        destinations.Webhook(url)
    assert "SECRET" not in f"{refused.value}{refused.value.hint}"


@pytest.mark.parametrize("status", [301, 302, 307, 401, 429, 500])
def test_only_an_accepted_message_counts(queue: Queue, hooks: Any, status: int) -> None:
    hooks.handler.status = status
    event = Event(kind="failed", title="t", text="x", notices={})
    with pytest.raises(DeliveryError, match=f"^it answered {status}$"):
        destinations.Webhook(hooks.url).send(event, queue.paths.root)


def test_a_server_that_is_not_there_or_hangs_is_named_without_its_url(
    queue: Queue, hooks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = Event(kind="failed", title="t", text="x", notices={})
    with pytest.raises(DeliveryError, match=r"^no answer: Connection refused$"):
        destinations.Webhook(f"http://127.0.0.1:1/{SECRET}").send(event, queue.paths.root)
    monkeypatch.setattr(destinations, "_TIMEOUT_S", 0.1)
    hooks.handler.hang_s = 1.0
    with pytest.raises(DeliveryError, match=r"^no answer: TimeoutError$"):
        destinations.Webhook(hooks.url).send(event, queue.paths.root)


def test_a_command_gets_the_event_and_its_failure_is_tried_again(
    queue: Queue, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    command = f'test -e {tmp_path}/ready && {{ echo "$JOBSPEC_EVENT: $JOBSPEC_TITLE"; cat; }} >>'
    notify = ("notify", "--root", queue.paths.root, "--once", "--command", f"{command} {kept}")
    jobspec(*notify)
    job = fail(queue, base_spec(), "row 17")
    assert "it exited with 1" in jobspec(*notify, code=1).stderr
    (tmp_path / "ready").touch()
    jobspec(*notify)
    jobspec(*notify)
    lines = kept.read_text().splitlines()
    assert lines[0] == f"failed: job failed: {job.id}" and "row 17" in lines[1]
    assert [line for line in lines if line.startswith(("failed:", "all-done:"))] == [
        lines[0],
        "all-done: all jobs have ended",
    ]


def test_mail_goes_through_sendmail(queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sendmail"
    program.write_text(f'#!/bin/sh\n[ "$*" = "-i -t" ] && cat >> {tmp_path}/mail\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    notify = ("notify", "--root", queue.paths.root, "--once", "--mail", "ada@uni.edu")
    jobspec(*notify, PATH=path)
    job = fail(queue, base_spec(), "Überlauf")
    jobspec(*notify, PATH=path)
    mail = (tmp_path / "mail").read_text()
    assert f"To: ada@uni.edu\nSubject: jobspec: job failed: {job.id}\n" in mail
    with pytest.raises(JobspecError, match="not a mail address"):
        destinations.Mail("-oQ/tmp")


def test_give_one_destination(queue: Queue) -> None:
    notify = ("notify", "--root", queue.paths.root)
    assert "Give one of" in jobspec(*notify, code=2).stderr
    assert "Give one of" in jobspec(*notify, "--mail", "a@b", "--command", "x", code=2).stderr


# Once, whatever is killed


class Down:
    name, key = "the server", "down"

    def send(self, event: Event, root: Path) -> None:
        raise DeliveryError("it answered 503")


def test_waits_between_tries_grow_to_a_minute(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    paths = queue.paths.notices("down")
    with handover_lock.acquire(paths.lock, "notifier", heartbeat_s=1.0, lease_s=9.0) as lock:
        sending = Notifier(queue, Down(), watch(queue, "down"), lock, said.append, 15.0)
        assert sending.pause_s == 15.0
        fail(queue, base_spec(), "x")
        waits: list[float] = []
        for _ in range(9):
            sending.report()
            waits.append(sending.pause_s)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60] and len(said) == 9
    assert "was not delivered to the server: it answered 503; trying again in 60 s" in said[-1]


@pytest.mark.parametrize("at", ["before", "sent", "recorded"])
def test_a_notifier_killed_at_any_point_loses_nothing(
    queue: Queue, tmp_path: Path, at: str
) -> None:
    """Only one killed between the server's answer and its record reports an event twice."""
    kept, kill_at = tmp_path / "kept", at

    class Killed:
        name, key = "a file", "file"

        def send(self, event: Event, root: Path) -> None:
            if kill_at == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            fs.append(kept, f"{event.kind}\n".encode())
            if kill_at == "sent":
                os.kill(os.getpid(), signal.SIGKILL)

    def report(*, die: bool = True) -> None:
        nonlocal kill_at
        kill_at = at if die else ""
        paths = queue.paths.notices("file")
        with handover_lock.acquire(paths.lock, "notifier", heartbeat_s=1.0, lease_s=9.0) as lock:
            notifier.Notifier(queue, Killed(), watch(queue, "file"), lock, print, 1.0).report()
            if kill_at == "recorded":
                os.kill(os.getpid(), signal.SIGKILL)

    watch(queue, "file")
    queue.enqueue(base_spec(notes="waits"))
    send_heartbeat(queue, W, None)
    fail(queue, base_spec(), "x")
    _, status = os.waitpid(fork(report), 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    report(die=False)
    report(die=False)
    assert kept.read_text() == "failed\n" * (2 if at == "sent" else 1)


def test_of_two_notifiers_one_reports_and_the_other_takes_over(queue: Queue, hooks: Any) -> None:
    command = [sys.executable, "-m", "jobspec.cli", "notify", "--interval", "0.1"]
    command += ["--root", str(queue.paths.root)]
    env = environment(JOBSPEC_WEBHOOK=hooks.url)
    first = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    both = [first]
    try:
        until(lambda: list(queue.paths.root.glob("notify/*/start.json")), "a notifier", 60)
        second = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        both.append(second)
        assert second.stderr is not None
        assert "waiting to take over" in second.stderr.readline()
        lock = next(queue.paths.root.glob("notify/*/lock"))
        fail(queue, base_spec(notes="1"), "x")
        until(lambda: len(texts(hooks)) == 2, "two messages", 60)
        assert {int(name.split(".")[3]) for name in fs.list_names(lock)} == {first.pid}
        first.kill()
        first.wait()
        fail(queue, base_spec(notes="2"), "x")
        until(lambda: len(texts(hooks)) == 4, "the other one's messages", 60)
    finally:
        for each in both:
            each.terminate()
        errors = [each.communicate(timeout=30)[1] for each in both]
    assert len(texts(hooks)) == 4
    assert "SECRET" not in "".join(errors)
