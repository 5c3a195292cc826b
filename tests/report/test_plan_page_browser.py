"""A plan's page in a real browser: every chart is drawn, nothing sticks out, and nobody complains."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pilothouse.plan.buying import Buying
from pilothouse.plan.document import Confidence
from pilothouse.plan.prices import Prices, public
from pilothouse.plan.promise import expected_of
from pilothouse.plan.search import Found, search
from tests.plan.test_plan_search import ASKS, QUESTION
from tests.report.test_report_browser import CHARTS, GROUND, browser, opened

__all__ = ["browser"]
pytestmark = pytest.mark.browser
pytest.importorskip("plotly", reason="the extra `report` is not installed")

POINTS = "return document.querySelectorAll('#chart-ttft .scatterlayer .point').length"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pilothouse.cli.plan_page import write_page

    asks = replace(ASKS, curve=[(1.0, 0.7), (ASKS.rate, 0.3)])
    buying = Buying(term="owned", burst="on_demand")
    question = replace(QUESTION, asks=asks, prices=Prices((public(),)), buying=buying)
    found = search(question)
    first = found.plans[0]
    tried = replace(first, expected=replace(expected_of(first), confidence=Confidence.SIMULATED))
    path = tmp_path_factory.mktemp("page") / "plan.html"
    write_page(path, question, Found([tried, *found.plans[1:]], found.rejected), question.hardware)
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (420, "light")])
def test_all_charts_are_drawn_and_nothing_is_complained_about(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    opened(browser, page, width, scheme)
    drawn = browser.execute_script(CHARTS)
    assert [key for key, _, _ in drawn] == ["front", "ttft", "tpot", "memory", "bill"]
    assert all(done == "yes" and marks for _, done, marks in drawn), drawn
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == width, "nothing sticks out"
    assert (browser.execute_script(GROUND) != "rgb(246, 247, 249)") == (scheme == "dark")


def test_a_fleet_is_hidden_in_all_charts(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    opened(browser, page, 1400, "light")
    assert browser.execute_script(POINTS) == 1, "what was simulated is a point"
    browser.find_element(By.CSS_SELECTOR, ".chip").click()
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(POINTS) == 0)
