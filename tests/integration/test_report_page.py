"""The report and the live page in a real Chromium: charts, tables, phones, keyboards, axe-core."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from jobspec.queue.queue import Queue
from tests.support import example_root
from tests.support.browser import Browser, browser
from tests.support.commands import PATIENCE_S, Talking, ctrl_c_heard, environment, jobspec
from tests.support.paths import fast_dir
from tests.support.queues import enqueue_and_claim, fail, report_progress
from tests.support.specs import base_spec, tuned_spec


@pytest.fixture(scope="module")
def group() -> Iterator[Queue]:
    with fast_dir() as directory:
        yield example_root.make(directory / "root")


@pytest.fixture(scope="module")
def page(group: Queue) -> str:
    path = group.paths.root.parent / "report.html"
    jobspec("report", "-o", path, "--root", group.paths.root)
    return path.as_uri()


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def chrome(window: Browser) -> Browser:
    window.prefer()
    window.errors()
    return window


def column(chrome: Browser, table: str, name: str) -> list[str]:
    """What a reader sees in a column of a section's table."""
    return chrome.js(
        """const table = document.querySelector(`#${arguments[0]} table`);
        const heads = [...table.tHead.rows[0].cells].map((th) => th.textContent);
        const at = heads.indexOf(arguments[1]);
        const cells = [...table.tBodies[0].rows].map((row) => row.cells[at]);
        return cells.map((cell) => cell.firstChild?.textContent ?? '');""",
        table,
        name,
    )


def test_every_chart_has_marks_and_nothing_is_complained_of(chrome: Browser, page: str) -> None:
    chrome.open(page)
    marks = chrome.js(
        """return [...document.querySelectorAll("figure")].map((figure) => [
          figure.id, figure.querySelectorAll(".scatterlayer path.js-line, .barlayer .point").length
        ]);"""
    )
    assert dict(marks) == {
        "figure-loss": 7,
        "figure-eval_loss": 7,
        **{f"figure-rate-{name}": 4 for name in ("minerva_math500", "aime24")},
        **{f"figure-epochs-{name}": 6 for name in ("minerva_math500", "aime24")},
        "figure-mean_response_tokens": 16,
        "figure-truncated_frac": 16,
        "figure-time": 40,
    }
    assert chrome.errors() == []
    assert chrome.faults() == []
    loaded = chrome.js("return performance.getEntriesByType('resource').map((r) => r.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def test_tables_sort_by_mouse_and_by_keyboard(chrome: Browser, page: str) -> None:
    chrome.open(page)
    before = column(chrome, "scores", "aime24")
    (head,) = [
        button
        for button in chrome.driver.find_elements(By.CSS_SELECTOR, "#scores button.sort")
        if button.text == "aime24"
    ]
    head.click()
    up = column(chrome, "scores", "aime24")
    assert up == sorted(before) != before
    head.send_keys(Keys.ENTER)
    assert column(chrome, "scores", "aime24") == up[::-1]
    state = head.find_element(By.XPATH, "..").get_attribute("aria-sort")
    assert state == "descending"


def test_numbers_sort_as_numbers_and_empty_cells_last(chrome: Browser, page: str) -> None:
    chrome.open(page)
    chrome.js("document.querySelectorAll('#scores button.sort')[1].click()")
    assert column(chrome, "scores", "Learning rate")[:4] == ["base", "base", "5e-6", "5e-6"]
    assert column(chrome, "scores", "Learning rate")[-1] == "2e-5"
    for _ in range(2):
        chrome.js("document.querySelectorAll('#runs button.sort')[2].click()")
        assert chrome.js("return document.querySelector('#runs td.n').textContent") == "60%"


@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_window_needs_no_sideways_scroll(chrome: Browser, page: str, width: int) -> None:
    chrome.open(page, width=width)
    chrome.js("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    wide = chrome.js("return document.documentElement.scrollWidth")
    charts = chrome.js(
        "return Math.max(...[...document.querySelectorAll('.chart svg')]"
        ".map((svg) => svg.getBoundingClientRect().right))"
    )
    assert wide <= width and charts <= width
    assert width > 360 or chrome.faults() == []


def test_the_dark_page_is_dark_and_as_readable(chrome: Browser, page: str) -> None:
    chrome.prefer(prefers_color_scheme="dark")
    chrome.open(page)
    ground = "return getComputedStyle(document.body).backgroundColor"
    ink = "return getComputedStyle(document.querySelector('.chart .xtitle')).fill"
    assert chrome.js(ground) == "rgb(20, 23, 27)" and chrome.js(ink) == "rgb(232, 234, 237)"
    assert chrome.faults() == []
    chrome.driver.find_element(By.ID, "theme").click()
    assert chrome.js(ground) == "rgb(255, 255, 255)" and chrome.js(ink) == "rgb(26, 29, 33)"


def test_paper_is_light_and_has_no_buttons(chrome: Browser, page: str) -> None:
    chrome.prefer(prefers_color_scheme="dark")
    chrome.open(page)
    chrome.js("dispatchEvent(new Event('beforeprint'))")
    chrome.prefer(media="print", prefers_color_scheme="dark")
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert [chrome.js(shown, name) for name in ("nav", "#theme")] == ["none", "none"]
    assert (
        chrome.js("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )
    assert chrome.js("return [...document.querySelectorAll('.origin')].every((d) => d.open)")
    chrome.prefer(prefers_color_scheme="dark")
    chrome.js("dispatchEvent(new Event('afterprint'))")
    assert chrome.js("return document.documentElement.dataset.theme") == "dark"


def test_the_keyboard_reaches_everything_and_skips_to_the_content(
    chrome: Browser, page: str
) -> None:
    chrome.open(page)
    body = chrome.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    first = chrome.driver.switch_to.active_element
    assert first.text == "Skip to the content"
    first.send_keys(Keys.ENTER)
    assert chrome.js("return document.activeElement.id") == "content"
    chrome.driver.switch_to.active_element.send_keys(Keys.TAB)
    reached = chrome.js("return document.activeElement.getAttribute('aria-labelledby')")
    assert reached == "scores-title"  # what scrolls sideways is reached too
    summary = chrome.driver.find_element(By.CSS_SELECTOR, "#figure-loss summary")
    summary.send_keys(Keys.ENTER)
    assert chrome.js("return document.querySelector('#figure-loss details').open")


# --- serve


@pytest.fixture
def live(queue: Queue) -> Iterator[tuple[Queue, str]]:
    report_progress(enqueue_and_claim(queue, tuned_spec()), 10)
    arguments = ("serve", "--interval", "0.2", "--root", queue.paths.root)
    with Talking(*arguments) as server:
        yield queue, server.line().strip()


def get(address: str, path: str, method: str = "GET") -> tuple[int, bytes]:
    host = urlsplit(address).netloc
    connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_the_live_page_renews_itself_and_keeps_what_its_reader_did(
    chrome: Browser, live: tuple[Queue, str]
) -> None:
    queue, address = live
    chrome.open(address)
    assert chrome.driver.find_element(By.ID, "live").text == "live"
    assert column(chrome, "runs", "Progress") == ["10%"]
    chrome.js("document.querySelector('#provenance details').open = true")
    chrome.js("document.querySelector('#runs button.sort').click()")
    chrome.js("document.querySelector('#runs button.sort').focus()")
    attempt = queue.jobs()[0].paths.attempt(1)
    attempt.progress.write_bytes(b'{"phase": "train", "done": 43, "total": 100, "unit": "steps"}')
    fail(queue, base_spec("zz/last"), "no")
    attempt.metrics.write_bytes(
        b'{"phase":"train","step":1,"epoch":0.1,"loss":2.0}\n'
        b'{"phase":"train","step":2,"epoch":0.2,"loss":1.0}\n'
    )
    chrome.wait(lambda: column(chrome, "runs", "Progress") == ["", "43%"])
    chrome.wait(
        lambda: chrome.js("return document.querySelectorAll('#figure-loss .js-line').length")
    )
    assert chrome.js("return document.querySelector('#provenance details').open")
    assert chrome.js("return document.querySelector('#runs th').getAttribute('aria-sort')")
    assert chrome.js("return document.activeElement.textContent") == "Run"
    assert chrome.errors() == []


def test_without_the_token_the_port_tells_nothing(live: tuple[Queue, str]) -> None:
    _, address = live
    token = urlsplit(address).path
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
    assert get(address, token)[0] == 200
    for path in ("/", "/x/", token[:-2] + "/", f"{token}../{token}etc", "/content", "/events"):
        assert get(address, path) == (404, b"not found\n"), path
    for method in ("POST", "PUT", "DELETE"):
        assert get(address, token, method)[0] == 501


def test_it_listens_on_loopback_alone_and_says_when_a_port_is_taken(
    live: tuple[Queue, str],
) -> None:
    queue, address = live
    port = urlsplit(address).port
    assert port is not None
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    here = [line.split()[1] for line in table.splitlines() if f":{port:04X} 0" in line]
    assert here == [f"0100007F:{port:04X}"]
    done = jobspec("serve", "--port", str(port), "--root", queue.paths.root, code=1)
    assert "Address already in use" in done.stderr and "hint: " in done.stderr


def test_ctrl_c_ends_it_with_an_open_connection(queue_root: Path) -> None:
    command = [sys.executable, "-u", "-m", "jobspec.cli", "serve", "--root", str(queue_root)]
    with ctrl_c_heard():
        server = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    assert server.stdout is not None
    try:
        address = urlsplit(server.stdout.readline().strip())
        with socket.create_connection((address.hostname, address.port)) as listener:
            listener.sendall(f"GET {address.path}events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b"text/event-stream" in listener.recv(4096)
            server.send_signal(signal.SIGINT)
            assert server.wait(PATIENCE_S) == 0
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def queue_root(tmp_path: Path) -> Path:
    return Queue.create(tmp_path / "root").paths.root
