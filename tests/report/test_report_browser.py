"""A real browser opens the page from a file, without any network, and draws every chart without a complaint."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.report.page import write_page
from tests.report.runs import ladder, run

pytestmark = pytest.mark.browser
selenium = pytest.importorskip("selenium.webdriver", reason="no selenium; install it with: pip install selenium")
pytest.importorskip("plotly", reason="the extra `report` is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRAWN_S = 60  # a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium with its driver; install them with: apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = selenium.Chrome(options=options, service=Service(driver))
    running.execute_cdp_cmd("Network.enable", {})
    running.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*", "ws://*", "wss://*"]})
    yield running
    running.quit()


def opened(browser: Any, path: Path, width: int, scheme: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(path.as_uri())
    WebDriverWait(browser, DRAWN_S).until(lambda b: b.execute_script(READY))


READY = "return document.documentElement.dataset.ready === 'yes'"
CHARTS = """return [...document.querySelectorAll('.chart')].map(card => [card.dataset.key, card.dataset.drawn,
    card.querySelectorAll('.plot .trace, .plot .hm image, .plot .bars .point').length])"""
SHOWN = "return [...document.querySelectorAll('section.cards')].filter(e => !e.hidden).map(e => e.dataset.rung)"
LINES = "return document.querySelectorAll('#chart-ttft .scatterlayer .trace .js-line').length"
GROUND = "return getComputedStyle(document.body).backgroundColor"


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_charts_are_drawn_and_nothing_is_complained_about(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    write_page(ladder(loads=(1, 2, 3), seeds=2), tmp_path / "page.html")
    opened(browser, tmp_path / "page.html", width, scheme)
    charts = browser.execute_script(CHARTS)
    assert len(charts) == 11 and all(drawn == "yes" and marks for _, drawn, marks in charts), charts
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == width, "nothing sticks out"
    dark = browser.execute_script(GROUND) != "rgb(246, 247, 249)"
    assert dark == (scheme == "dark")


def test_one_run_has_a_page_without_an_empty_chart(browser: Any, tmp_path: Path) -> None:
    write_page([run("cache_and_load", 1, 1, replicas=1)], tmp_path / "page.html")
    opened(browser, tmp_path / "page.html", 1400, "light")
    charts = browser.execute_script(CHARTS)
    assert charts and all(drawn == "yes" and marks for _, drawn, marks in charts), charts
    assert browser.get_log("browser") == []


def test_choosing_a_load_and_hiding_a_policy(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    write_page(ladder(loads=(1, 2, 3)), tmp_path / "page.html")
    opened(browser, tmp_path / "page.html", 1400, "light")
    Select(browser.find_element(By.ID, "rung")).select_by_visible_text("20 req/s")
    assert browser.execute_script(SHOWN) == ["0"]
    assert "at 20 req/s" in browser.find_element(By.CSS_SELECTOR, "#chart-kv .at").text
    before = browser.execute_script(LINES)
    browser.find_element(By.CSS_SELECTOR, ".chip").click()
    WebDriverWait(browser, DRAWN_S).until(lambda b: b.execute_script(LINES) == before - 1)
    assert browser.get_log("browser") == []
