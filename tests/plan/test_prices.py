"""Price lists: what ships is dated and sourced; a list of one's own comes first, and says where it is wrong."""

from pathlib import Path
from statistics import median_low

import pytest

from pilothouse.core.errors import ConfigError
from pilothouse.perf.catalog import GPUS
from pilothouse.plan.prices import HOURS_PER_MONTH, QUOTED, Prices, public, read_prices

H100 = GPUS["h100_sxm"]
SHIPPED = Prices((public(),))
OWN = """
quotes:
  - {provider: ours, date: 2026-11-01, source: contract, on_demand: {h100: 2.9}, reserved_1y: {h100: 2.1}}
owned: {usd_per_kwh: 0.1, pue: 1.5, months: 10, usd_per_month: 73, gpus: {H100 SXM: {capex_usd: 7300, power_w: 1000}}}
"""


def own(tmp_path: Path, text: str = OWN, provider: str = "") -> Prices:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return Prices((read_prices(path), public()), provider)


def test_every_public_price_has_a_day_and_a_source_and_no_provider_asks_two_for_one_thing() -> None:
    seen = set()
    for quotes in public().quotes:
        assert quotes.date.startswith("202") and len(quotes.source) > 10
        for term in QUOTED:
            for gpu in getattr(quotes, term):
                assert (quotes.provider, term, gpu) not in seen
                seen.add((quotes.provider, term, gpu))
    assert len(seen) > 60


def test_of_several_public_prices_the_lower_median_is_taken_and_named() -> None:
    asked = [q.on_demand["h100_sxm"] for q in public().quotes if "h100_sxm" in q.on_demand]
    found = SHIPPED.of(H100, "on_demand")
    assert found is not None and found.usd_h == median_low(asked) and f"{len(asked)} prices from" in found.said


@pytest.mark.parametrize(
    ("term", "usd_h"), [("on_demand", 2.9), ("reserved", 2.1), ("reserved_1y", 2.1), ("owned", 1.25)]
)
def test_a_list_of_ones_own_comes_first(term: str, usd_h: float, tmp_path: Path) -> None:
    found = own(tmp_path).of(H100, term)
    assert found is not None and found.usd_h == pytest.approx(usd_h)


def test_what_it_does_not_have_is_as_the_list_that_ships_says(tmp_path: Path) -> None:
    assert own(tmp_path).of(H100, "spot") == SHIPPED.of(H100, "spot") is not None
    assert own(tmp_path).of(GPUS["l40s"], "on_demand") == SHIPPED.of(GPUS["l40s"], "on_demand")


def test_what_one_owns_is_the_price_over_its_life_and_the_power() -> None:
    found, terms = SHIPPED.of(H100, "owned"), public().owned
    assert found is not None and terms.months and terms.pue and terms.usd_per_kwh
    gpu = terms.gpus["h100_sxm"]
    power = gpu.power_w / 1000 * terms.pue * terms.usd_per_kwh
    assert found.usd_h == pytest.approx(gpu.capex_usd / terms.months / HOURS_PER_MONTH + power)
    assert SHIPPED.of(GPUS["l4"], "owned") is None, "nobody said what it costs"


def test_of_one_provider_only_its_prices_count() -> None:
    aws = Prices((public(),), "aws")
    found = aws.of(H100, "on_demand")
    assert found is not None and found.usd_h == 6.88 and aws.of(H100, "reserved") is None
    assert aws.terms(GPUS["l4"]) == ["on_demand", "reserved"]


def test_a_price_that_is_given_is_all_there_is() -> None:
    given = Prices((public(),), given={"h100_sxm": 2.5})
    assert all((found := given.of(H100, term)) and found.usd_h == 2.5 for term in ("spot", "owned"))
    assert given.of(GPUS["l4"], "on_demand") is None


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{}", "quotes"),
        (OWN.replace("{h100: 2.9}", "{h1000: 2.9}"), "quotes[0].on_demand.h1000"),
        (OWN.replace("2.9", "-1"), "quotes[0].on_demand.h100_sxm"),
        (OWN.replace("reserved_1y", "reserved_2y"), "quotes[0].reserved_2y"),
        (OWN.replace("capex_usd: 7300", "capex_usd: 0"), "owned.gpus.H100 SXM.capex_usd"),
        (OWN.replace("pue: 1.5", "pue: 0.5"), "owned.pue"),
        (OWN.replace("usd_per_kwh: 0.1", "usd_per_kwh: -0.1"), "owned.usd_per_kwh"),
        ("quotes: [{provider: a, date: b, source: c, spot: {h100: .nan}}]", "quotes[0].spot"),
        (OWN.replace("date: 2026-11-01, ", ""), "quotes[0].date"),
        ("gpus: {h100: {on_demand: 2}}", "gpus"),
        ("[", ""),
    ],
)  # fmt: skip
def test_a_wrong_price_list_says_where(text: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        own(tmp_path, text)
    assert any(where in problem.where and str(tmp_path) in problem.where for problem in caught.value.problems)
