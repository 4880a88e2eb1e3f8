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
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from jobspec.queue.queue import Queue
from tests.support import example_root
from tests.support.browser import Browser, browser
from tests.support.commands import PATIENCE_S, Talking, ctrl_c_heard, environment, jobspec
from tests.support.paths import fast_dir
from tests.support.queues import enqueue_and_claim, fail, report_progress, scores, succeed
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
    window.forget()
    window.errors()
    return window


def column(chrome: Browser, name: str) -> list[str]:
    """What a reader sees in a column of the table of runs."""
    return chrome.js(
        """return [...document.querySelectorAll(`.runs td[data-label="${arguments[0]}"]`)]
          .map((cell) => cell.firstElementChild?.textContent ?? cell.textContent);""",
        name,
    )


def names(chrome: Browser) -> list[str]:
    """The runs in the table, from the top."""
    return chrome.js(
        "return [...document.querySelectorAll('.runs tbody th')].map((name) => name.textContent)"
    )


def press(chrome: Browser, text: str, within: str = "main") -> None:
    """Click a button or a link by its text."""
    clicked = chrome.js(
        """const found = [...document.querySelectorAll(`${arguments[1]} :is(button, a, summary)`)]
          .find((each) => each.textContent.trim() === arguments[0]);
        found?.click();
        return Boolean(found);""",
        text,
        within,
    )
    assert clicked, text


def set_field(chrome: Browser, selector: str, value: str) -> None:
    """Change a field as a reader does."""
    chrome.js(
        """const field = document.querySelector(arguments[0]);
        field.value = arguments[1];
        field.dispatchEvent(new Event("input"));
        field.dispatchEvent(new Event("change"));""",
        selector,
        value,
    )


def text_of(chrome: Browser, selector: str) -> str:
    return chrome.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)


def texts(chrome: Browser, selector: str) -> list[str]:
    """The text of every element that is found."""
    every = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
    return chrome.js(every, selector)


def id_of(group: Queue, name: str) -> str:
    (found,) = (job.id for job in group.jobs() if job.spec.name == name)
    return found


def test_the_overview_answers_what_runs_waits_and_failed_in_this_order(
    chrome: Browser, page: str
) -> None:
    chrome.open(page)
    sections = chrome.js("return [...document.querySelectorAll('main > section')].map((s) => s.id)")
    assert sections == ["now", "runs", "compare"]
    running = text_of(chrome, ".running li")
    for told in ("60 %", "60 of 100 steps", "loss 0.3765", "5,210 tokens/s", "2 h 04 min left"):
        assert told in running
    failed = text_of(chrome, ".failed li")
    assert "row 17: no final turn" in failed and "hint: look at it" in failed
    assert chrome.errors() == [] and chrome.faults() == []
    loaded = chrome.js("return performance.getEntriesByType('resource').map((r) => r.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def test_a_row_has_the_settings_that_differ_losses_time_and_intervals(
    chrome: Browser, page: str
) -> None:
    chrome.open(page)
    heads = chrome.js(
        "return [...document.querySelectorAll('.runs th button')].map((b) => b.innerText)"
    )
    assert "Learning rate" in heads and "Seed" not in heads
    assert sorted(set(column(chrome, "Learning rate"))) == ["", "1e-5", "2e-5", "5e-6"]
    assert "0.48" in column(chrome, "Train loss") and "0.63" in column(chrome, "Held-out loss")
    assert "2 h 00 min" in column(chrome, "Time")  # and never 0.0 hours
    score = text_of(chrome, ".runs tr:last-child td.score")
    assert score.split("\n")[0].startswith("0.867") and "0.83 to 0.89" in score


def test_no_run_is_crowned_among_ties(queue: Queue, chrome: Browser, tmp_path: Path) -> None:
    for number in range(3):
        succeed(queue, base_spec(notes=str(number)), scores(0.5, 0.0))
    succeed(queue, base_spec(notes="far above"), scores(0.9, 0.0))
    report = tmp_path / "r.html"
    jobspec("report", "-o", report, "--root", queue.paths.root)
    chrome.open(report.as_uri())
    marked = "return [...document.querySelectorAll('.runs .score abbr')].map((m) => m.textContent)"
    assert chrome.js(marked) == [" ★"]
    assert "0.900" in text_of(chrome, ".runs .value.best")


def test_the_table_sorts_by_mouse_and_by_keyboard(chrome: Browser, page: str) -> None:
    chrome.open(page)
    assert column(chrome, "aime24 avg@32")[0] == ""  # the newest runs first: these have no score
    (head,) = (
        button
        for button in chrome.driver.find_elements(By.CSS_SELECTOR, ".runs button.sort")
        if button.text.startswith("aime24")
    )
    head.click()
    down = column(chrome, "aime24 avg@32")
    assert down[0].startswith("0.670") and down[-2:] == ["", ""]
    head.send_keys(Keys.ENTER)
    assert column(chrome, "aime24 avg@32")[0].startswith("0.550")
    assert column(chrome, "aime24 avg@32")[-2:] == ["", ""]  # empty cells are the last both times
    state = head.find_element(By.XPATH, "..").get_attribute("aria-sort")
    assert state == "ascending"
    press(chrome, "Learning rate", ".runs")
    assert column(chrome, "Learning rate")[:4] == ["5e-6", "5e-6", "5e-6", "1e-5"]


def test_filters_columns_and_selection_are_kept_in_the_address(chrome: Browser, page: str) -> None:
    chrome.open(page)
    set_field(chrome, "#filter", "olmo learning_rate=5e-6")
    assert names(chrome) == ["olmo-3-7b-instruct-lr5e-6", "olmo-3-7b-think-lr5e-6"]
    press(chrome, "done 8")
    assert names(chrome) == ["olmo-3-7b-think-lr5e-6"]
    chrome.js("document.querySelector('.runs .pick input').click()")
    chrome.js("document.querySelector('[data-key=\"set:train.seed\"] input').click()")
    assert column(chrome, "Seed") == ["42"]
    address = chrome.js("return location.href")
    chrome.open(address)
    assert names(chrome) == ["olmo-3-7b-think-lr5e-6"] and column(chrome, "Seed") == ["42"]
    assert chrome.js("return document.querySelector('.runs .pick input').checked")
    chrome.open(page)
    assert column(chrome, "Seed") != []  # the columns are there also on the next visit


def test_compared_runs_have_one_colour_and_a_clickable_legend(chrome: Browser, page: str) -> None:
    chrome.open(page)
    set_field(chrome, "#filter", "qwen")
    press(chrome, "Select all shown")
    press(chrome, "Compare 4 runs")
    lines = """return Object.fromEntries([...document.querySelectorAll('#figure-loss path.line')]
      .map((path) => [path.dataset.run, path.getAttribute('stroke')]))"""
    drawn = chrome.js(lines)
    assert len(drawn) == 3 and len(set(drawn.values())) == 3
    for run, colour in drawn.items():
        found = chrome.js(
            """return [...document.querySelectorAll(`a[href*="${arguments[0]}"] .swatch line`)]
              .map((line) => line.getAttribute('stroke'))""",
            run,
        )
        assert len(found) > 3 and set(found) == {colour}
    press(chrome, "qwen3-8b-lr1e-5", ".legend")
    assert set(chrome.js(lines)) < set(drawn) and len(chrome.js(lines)) == 2
    assert chrome.js("return document.querySelectorAll('.legend [aria-pressed=false]').length") == 1


def test_compared_settings_mark_what_differs_and_scores_say_what_is_not_decided(
    chrome: Browser, page: str
) -> None:
    chrome.open(page)
    set_field(chrome, "#filter", "qwen")
    press(chrome, "Select all shown")
    rows = "table.settings tbody th"
    assert texts(chrome, rows) == ["training", "train.learning_rate"]
    rate = "[data-key='train.learning_rate'] td.other"
    assert texts(chrome, rate) == ["differs: 5e-6", "differs: 1e-5", "differs: 2e-5"]
    chrome.js("document.querySelector('#compare [data-key=settings] input').click()")
    assert "train.seed" in texts(chrome, rows)
    outcomes = "#compare [data-key=aime24] tbody td:last-child"
    assert texts(chrome, outcomes)[:4] == ["highest", *["not decided"] * 3]
    pairs = text_of(chrome, "#compare [data-key=pairs]")
    assert "Paired differences" in pairs and "not decided" in pairs and "12" in pairs


def test_axes_are_labelled_in_full_also_on_a_logarithmic_scale(chrome: Browser, page: str) -> None:
    chrome.open(page)
    labels = """return [...document.querySelectorAll('#figure-loss .ytick')]
      .map((tick) => [Number(tick.textContent), Number(tick.getAttribute('y'))])"""
    for scale in ("linear", "log"):
        chrome.js(
            """const field = [...document.querySelectorAll('#compare label')]
              .find((label) => label.textContent.startsWith('Scale')).querySelector('select');
            field.value = arguments[0];
            field.dispatchEvent(new Event('change'));""",
            scale,
        )
        ticks = chrome.js(labels)
        values = [value for value, _ in ticks]
        assert len(values) >= 3 and values == sorted(set(values))  # not 5 2 1 5 2
        heights = [at for _, at in ticks]
        gaps = [a - b for a, b in pairwise(heights)]
        assert (max(gaps) - min(gaps) < 1) == (scale == "linear")
    set_field(chrome, "#compare select", "hours")
    assert text_of(chrome, "#figure-loss") != ""
    title = chrome.js("return document.querySelector('#figure-loss .xtitle').textContent")
    assert title == "minutes"  # 400 seconds are not 0.1 hours


def test_smoothing_and_the_pointer(chrome: Browser, page: str) -> None:
    chrome.open(page)
    sharp = chrome.js("return document.querySelector('#figure-loss path.line').getAttribute('d')")
    set_field(chrome, "#compare input[type=range]", "0.9")
    smooth = chrome.js("return document.querySelector('#figure-loss path.line').getAttribute('d')")
    raw = chrome.js("return document.querySelector('#figure-loss path.raw').getAttribute('d')")
    assert raw == sharp != smooth
    chart = chrome.driver.find_element(By.CSS_SELECTOR, "#figure-loss svg[role=img]")
    ActionChains(chrome.driver).move_to_element(chart).perform()
    assert " at step " in text_of(chrome, "#figure-loss .readout")


def test_a_run_has_an_address_of_its_own(chrome: Browser, page: str, group: Queue) -> None:
    run = id_of(group, "qwen3-8b-lr1e-5")
    chrome.open(f"{page}#/run/{run}")
    assert chrome.js("return document.activeElement.id") == "run-title"
    figures = chrome.js("return [...document.querySelectorAll('figure')].map((f) => f.id)")
    curves = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "memory_gib")
    assert figures == [f"figure-{name}" for name in curves]
    marks = "return [...document.querySelectorAll('figure')].every((f) => f.querySelector('path'))"
    assert chrome.js(marks)
    assert "8× NVIDIA H100" in text_of(chrome, "[data-key=origin]")
    assert "saved step 400" in text_of(chrome, "pre.log")
    assert "1e-5" in text_of(chrome, "main > [data-key=settings]")
    assert chrome.errors() == [] and chrome.faults() == []
    press(chrome, "← all runs")
    chrome.wait(lambda: len(names(chrome)) == 10)


def test_attempts_are_on_a_timeline_with_their_reasons(
    chrome: Browser, page: str, group: Queue
) -> None:
    chrome.open(f"{page}#/run/{id_of(group, 'olmo-3-7b-instruct-lr5e-6')}")
    bars = chrome.js(
        "return [...document.querySelectorAll('.timeline .bar')].map((b) => b.innerText)"
    )
    assert bars == ["1: bad node", "2: running"]
    assert "GPU 3 fell off the bus" in text_of(chrome, "[data-key=attempts]")


def test_samples_can_be_filtered_and_their_reasoning_is_folded(
    chrome: Browser, page: str, group: Queue
) -> None:
    chrome.open(f"{page}#/run/{id_of(group, 'qwen3-8b-lr1e-5')}")
    shown = "return [...document.querySelectorAll('.sample h4 .state')].map((s) => s.textContent)"
    assert set(chrome.js(shown)) == {"right", "wrong"}
    first = text_of(chrome, ".sample")
    assert "Find the" in first and "by rule: boxed" in first and "Let me count" not in first
    chrome.js("document.querySelector('.sample summary').click()")
    assert "Let me count" in text_of(chrome, ".sample")
    assert len(chrome.js(shown)) == 16
    press(chrome, "Show all 24 samples", "#samples")
    assert len(chrome.js(shown)) == 24
    set_field(chrome, "#samples select", "wrong")
    assert set(chrome.js(shown)) == {"wrong"}
    set_field(chrome, "#samples input[type=search]", "2024-I-12")
    assert len(chrome.js(shown)) == 2
    assert chrome.js("return document.querySelector('.sample details').open") is False


def test_text_of_a_model_is_text(queue: Queue, chrome: Browser, tmp_path: Path) -> None:
    claim = enqueue_and_claim(queue, base_spec(model="a/<img src=x onerror=alert(1)>"))
    evil = "</script><img src=x onerror='document.title = 1'><script>document.title = 2</script>"
    example_root.answer_questions(claim.dir, right=3, text=evil)
    report = tmp_path / "r.html"
    jobspec("report", "-o", report, "--root", queue.paths.root)
    chrome.open(f"{report.as_uri()}#/run/{claim.job}")
    assert evil in text_of(chrome, ".sample")
    assert chrome.js("return document.querySelectorAll('img').length") == 0
    assert chrome.errors() == []


@pytest.mark.parametrize("width", [390, 768])
def test_a_narrow_window_needs_no_sideways_scroll(
    chrome: Browser, page: str, group: Queue, width: int
) -> None:
    for place in ("#/", f"#/run/{id_of(group, 'qwen3-8b-lr1e-5')}"):
        chrome.open(page + place, width=width)
        chrome.js("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        wide = chrome.js("return document.documentElement.scrollWidth")
        assert wide <= width, place
        assert width > 390 or chrome.faults() == []


def test_on_a_phone_each_run_is_a_card_with_the_score_first(chrome: Browser, page: str) -> None:
    chrome.open(page, width=390)
    card = """const row = [...document.querySelectorAll('.runs tbody tr')].at(-1);
    const box = (e) => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right]; };
    return ['td.score', 'th.name', 'td.is-state'].map((name) => box(row.querySelector(name)));"""
    score, name, state = chrome.js(card)
    assert 0 <= score[0] < score[2] <= 390
    assert score[1] < name[1] < state[1]
    roles = "return [...document.querySelectorAll('.runs tr')].every((tr) => tr.role === 'row')"
    assert chrome.js(roles)
    set_field(chrome, ".phone select", "-score:aime24")
    assert names(chrome)[0] == "olmo-3-7b-think-lr1e-5"


def test_on_a_phone_the_names_of_compared_runs_can_be_read(chrome: Browser, page: str) -> None:
    chrome.open(page, width=390)
    heights = (
        "return [...document.querySelectorAll('.settings thead a')].map((a) => a.offsetHeight)"
    )
    assert max(chrome.js(heights)) < 100  # and not one letter below the other


def test_the_dark_page_is_dark_and_as_readable(chrome: Browser, page: str) -> None:
    chrome.prefer(prefers_color_scheme="dark")
    chrome.open(page)
    ground = "return getComputedStyle(document.body).backgroundColor"
    ink = "return getComputedStyle(document.querySelector('.plot .xtitle')).fill"
    assert chrome.js(ground) == "rgb(20, 23, 27)" and chrome.js(ink) == "rgb(232, 234, 237)"
    assert chrome.faults() == []
    chrome.driver.find_element(By.ID, "theme").click()
    assert chrome.js(ground) == "rgb(255, 255, 255)" and chrome.js(ink) == "rgb(26, 29, 33)"
    chrome.open(page)
    assert chrome.js(ground) == "rgb(255, 255, 255)"  # kept


def test_paper_is_light_has_no_buttons_and_shows_what_is_folded(
    chrome: Browser, page: str, group: Queue
) -> None:
    chrome.prefer(prefers_color_scheme="dark")
    chrome.open(f"{page}#/run/{id_of(group, 'qwen3-8b-lr1e-5')}")
    chrome.js("dispatchEvent(new Event('beforeprint'))")
    chrome.prefer(media="print", prefers_color_scheme="dark")
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert [chrome.js(shown, name) for name in ("nav", "#theme")] == ["none", "none"]
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert chrome.js(ground) == "rgb(255, 255, 255)"
    folded = "return [...document.querySelectorAll('.sample details')].map((d) => d.open)"
    assert set(chrome.js(folded)) == {True}
    chrome.prefer(prefers_color_scheme="dark")
    chrome.js("dispatchEvent(new Event('afterprint'))")
    assert chrome.js("return document.documentElement.dataset.theme") == "dark"
    assert set(chrome.js(folded)) == {False}


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
    reached: list[str] = []
    for _ in range(60):
        chrome.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            chrome.js(
                """const e = document.activeElement;
                return e.getAttribute('aria-label') || e.id || e.innerText.trim()"""
            )
        )
    wanted = (
        "olmo-3-7b-instruct-lr5e-6",
        "filter",
        "done 8",
        "Columns",
        "Select all shown",
        "Runs",
    )
    assert set(wanted) <= set(reached)
    assert "Compare qwen3-8b-base" in reached  # what selects a run says which


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


def test_the_live_page_is_told_what_changes_and_keeps_what_its_reader_did(
    chrome: Browser, live: tuple[Queue, str]
) -> None:
    queue, address = live
    chrome.open(address)
    chrome.wait(lambda: text_of(chrome, "#live") == "live")
    assert "10 %" in text_of(chrome, ".running .meter")
    chrome.js("document.querySelector('.columns').open = true; window.stayed = true")
    press(chrome, "Run", ".runs")
    chrome.js("document.querySelector('.runs button.sort').focus()")
    attempt = queue.jobs()[0].paths.attempt(1)
    attempt.metrics.write_bytes(
        b'{"phase":"train","step":1,"epoch":0.1,"loss":2.0}\n'
        b'{"phase":"train","step":2,"epoch":0.2,"loss":1.0}\n'
    )
    attempt.progress.write_bytes(b'{"phase": "train", "done": 43, "total": 100, "unit": "steps"}')
    fail(queue, base_spec("zz/last"), "no")
    chrome.wait(lambda: "43 %" in text_of(chrome, ".running .meter"))
    chrome.wait(lambda: len(names(chrome)) == 2)
    chrome.wait(lambda: chrome.js("return document.querySelectorAll('#figure-loss .line').length"))
    assert chrome.js("return document.querySelector('.columns').open && window.stayed")
    assert chrome.js("return document.querySelector('.runs th[aria-sort]') !== null")
    assert chrome.js("return document.activeElement.textContent") == "Run"
    assert chrome.errors() == []


def test_the_live_page_of_a_run_follows_it_and_says_when_the_server_is_gone(
    chrome: Browser, queue: Queue
) -> None:
    claim = enqueue_and_claim(queue, tuned_spec())
    report_progress(claim, 10)
    with Talking("serve", "--interval", "0.2", "--root", queue.paths.root) as server:
        chrome.open(f"{server.line().strip()}#/run/{claim.job}")
        chrome.wait(lambda: "Provenance" in text_of(chrome, "main"))
        claim.dir.log("train").write_text("a line of the log\n")
        report_progress(claim, 20)
        chrome.wait(lambda: "a line of the log" in text_of(chrome, "pre.log"))
        assert chrome.errors() == []
    chrome.wait(lambda: text_of(chrome, "#live") == "the server does not answer")
    chrome.errors()


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
