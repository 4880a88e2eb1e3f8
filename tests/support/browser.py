"""A real headless Chromium, by Debian's driver, for tests of pages."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 60.0


class Browser:
    """One window. `errors()` are what its console said since the last call."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str, width: int = 1280, height: int = 900) -> None:
        """Load a page in a window whose inside is `width` × `height`, and wait for its charts."""
        self.resize(width, height)
        self.driver.get("about:blank")  # so that another part of the same page is loaded too
        self.driver.get(address)
        self.wait(lambda: self.js("return document.documentElement.dataset.ready") == "yes")

    def resize(self, width: int, height: int = 900) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, **features: str) -> None:
        """Media features, as `prefers_color_scheme="dark"`; `media="print"` is the medium."""
        wanted = {name.replace("_", "-"): value for name, value in features.items()}
        medium = wanted.pop("media", "")
        listed = [{"name": name, "value": value} for name, value in wanted.items()]
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": medium, "features": listed}
        )

    def forget(self) -> None:
        """Forget what the page that is open, and others of its origin, have stored."""
        self.js("try { localStorage.clear() } catch { /* a blank page has no storage */ }")

    def js(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.05).until(lambda _: condition())

    def errors(self) -> list[str]:
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def faults(self) -> list[str]:
        """What axe-core finds serious or critical."""
        self.js(Axe().axe_script)
        found = self.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1]);")
        return [
            f"{fault['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium, and end it; skip the test where it is not installed."""
    chromium, driver_program = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver_program is None:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(prefix="browser-") as profile:
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--no-first-run", f"--user-data-dir={profile}",
            "--disable-background-networking", "--disable-component-update",
        ):  # fmt: skip
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = Service(driver_program)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_script_timeout(PATIENCE_S)
            yield Browser(driver)
        finally:
            driver.quit()
