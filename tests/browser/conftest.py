"""A headless Chromium, one for all tests, and pages opened in it as files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1280,900",
)  # fmt: skip
LOGS = {"browser": "ALL", "performance": "ALL"}
MISSING = "there is no Chromium: apt-get install chromium chromium-driver"


@dataclass(frozen=True)
class Opened:
    """A page in the browser, fresh. driver: Selenium's."""

    driver: Any

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def look(self, *, width: int = 1280, scheme: str = "light", media: str = "") -> None:
        """Show the page as on a screen so wide, in light or dark, or as printed."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def press(self, *keys: str) -> None:
        """Press keys, by their names in Selenium, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.driver).send_keys(*(getattr(Keys, key) for key in keys)).perform()

    def problems(self) -> list[str]:
        """What the console has, refusals of the policy among it."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses of everything that was asked for since the last look."""
        messages = [
            json.loads(each["message"])["message"] for each in self.driver.get_log("performance")
        ]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]


OpenPage = Callable[[bytes], Opened]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.fail(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", LOGS)
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> OpenPage:
    """Write a page and open it from its file."""

    def opened(content: bytes) -> Opened:
        path = tmp_path / "index.html"
        path.write_bytes(content)
        page = Opened(chromium)
        page.look()
        chromium.get("about:blank")
        page.problems()
        page.requests()
        chromium.get(path.as_uri())
        return page

    return opened
