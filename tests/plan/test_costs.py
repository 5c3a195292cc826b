"""Laws of bills and of buying: what is dearer costs more, a mix is never dearer than one term, and every dollar has a token."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.perf.catalog import GPUS
from pilothouse.perf.step_time import StepTime
from pilothouse.plan.buying import ALL_DAY, BURSTS, Buying, Needed, Part, bought, idle_share, uses, ways
from pilothouse.plan.costs import bill, cached_share
from pilothouse.plan.prices import PriceList, Prices, Quotes
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.search import search
from tests.plan.test_plan_search import ASKS, QUESTION

H100 = GPUS["h100_sxm"]
USD = st.floats(0.1, 20)


@st.composite
def loads(draw: st.DrawFn) -> Needed:
    """A load curve, and a fleet that bears it."""
    cells = draw(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 1)), min_size=1, max_size=8))
    whole = sum(share for _, share in cells)
    curve = sorted((rate, share / whole) for rate, share in cells)
    return Needed(replace(ASKS, curve=curve), max(0.1, curve[-1][0]) * draw(st.floats(1, 2)), draw(st.floats(0.1, 60)))


PARTS = st.builds(Part, st.just("engines"), st.just(H100), st.integers(1, 20), st.integers(1, 8), st.floats(0, 900))


def priced(on_demand: float, reserved: float, spot: float) -> Prices:
    quotes = Quotes(
        provider="us", date="2026", source="us", on_demand={"h100_sxm": on_demand}, reserved={"h100_sxm": reserved},
        spot={"h100_sxm": spot},
    )  # fmt: skip
    return Prices((PriceList(quotes=[quotes]),))


def costs(part: Part, needed: Needed, prices: Prices, **how: object) -> float:
    made = bought([part], needed, Buying(**how), prices)  # type: ignore[arg-type]
    assert made is not None
    return made.usd_h


# --- buying


@given(PARTS, loads(), st.sampled_from([None, 0, 1, 3]))
def test_an_engine_is_paid_for_as_long_as_those_behind_it_at_least_and_no_longer_than_always(
    part: Part, needed: Needed, follows: int | None
) -> None:
    shares = uses(part, needed, Buying(follows=follows))
    assert len(shares) == part.replicas and all(0 <= share <= 1 for share in shares)
    assert all(a >= b for a, b in pairwise(shares))
    assert all(share == pytest.approx(1) for share in shares[: 1 if follows is None else follows])


@given(PARTS, loads(), USD, USD, USD)
def test_a_mix_is_never_dearer_than_either_of_its_terms_alone(
    part: Part, needed: Needed, on_demand: float, reserved: float, spot: float
) -> None:
    prices = priced(on_demand, reserved, spot)
    for burst in BURSTS:
        mixed = costs(part, needed, prices, term="reserved", burst=burst)
        assert mixed <= costs(part, needed, prices, term="reserved") * (1 + 1e-9)
        assert mixed <= costs(part, needed, prices, term=burst, follows=1) * (1 + 1e-9)


@given(PARTS, loads(), USD, USD)
def test_the_base_is_what_is_used_more_than_the_ratio_of_the_prices(
    part: Part, needed: Needed, on_demand: float, reserved: float
) -> None:
    made = bought([part], needed, Buying(term="reserved", burst="on_demand"), priced(on_demand, reserved, 1.0))
    assert made is not None
    base = sum(line.engines for line in made.lines if line.what == "base")
    assert sum(line.engines for line in made.lines) == part.replicas
    shares = uses(part, needed, Buying(term="reserved", burst="on_demand"))
    assert base == sum(share >= reserved / on_demand * (1 - 1e-12) for share in shares)


@given(PARTS, loads(), USD, st.floats(1.01, 3))
def test_dearer_gpus_never_make_a_cheaper_fleet(part: Part, needed: Needed, usd: float, factor: float) -> None:
    for how in ({"term": "on_demand"}, {"follows": 0}, {"term": "reserved", "burst": "on_demand"}):
        cheap, dear = (costs(part, needed, priced(price, 2.0, 1.0), **how) for price in (usd, usd * factor))
        assert cheap <= dear * (1 + 1e-9)


@given(PARTS, loads(), USD)
def test_what_goes_to_zero_is_never_dearer_than_what_follows_and_that_never_dearer_than_what_stays(
    part: Part, needed: Needed, usd: float
) -> None:
    prices = priced(usd, usd, usd)
    none, one, stays = (costs(part, needed, prices, follows=follows) for follows in (0, 1, None))
    assert none <= one * (1 + 1e-9) and one <= stays * (1 + 1e-9)


@given(loads(), st.floats(0, 900), st.floats(0, 3600))
def test_who_keeps_engines_longer_is_idle_less_and_makes_fewer_wait(
    needed: Needed, start_s: float, keep_s: float
) -> None:
    short, long = (Buying(follows=0, keep_s=keep) for keep in (keep_s, 2 * keep_s + 1))
    for by_request in (False, True):
        less, more = (idle_share(needed, how, start_s, by_request=by_request) for how in (long, short))
        assert 0 <= less <= more <= 1


def test_one_request_in_an_hour_pays_for_its_start_its_answer_and_the_time_after() -> None:
    hourly = Needed(replace(ASKS, curve=[(1 / 3600, 1.0)]), 10.0, 10.0)
    part = Part("engines", H100, 1, 1, 90.0)
    idle = idle_share(hourly, Buying(follows=0, keep_s=50.0), 90.0)
    assert idle == pytest.approx(3600 / (3600 + 60 + 90), rel=0.001)  # little else happens in a minute
    assert costs(part, hourly, priced(2.0, 9, 9), follows=0, keep_s=50.0) == pytest.approx(2 * (1 - idle), abs=0.01)
    made = bought([part], hourly, Buying(follows=0, keep_s=50.0), priced(2.0, 9, 9))
    assert made is not None and made.cold_share == pytest.approx(idle)


@given(PARTS, loads(), USD, USD, USD)
@settings(max_examples=50)
def test_ways_are_ordered_and_none_is_told_twice(part: Part, needed: Needed, a: float, b: float, c: float) -> None:
    found = ways([part], needed, Buying(), priced(a, b, c))
    assert [way.usd_per_hour for way in found] == sorted(way.usd_per_hour for way in found)
    assert len({way.how for way in found}) == len(found)
    assert {"all on_demand, all day", "all reserved, all day", "all spot, all day"} <= {way.how for way in found}


def test_spot_is_bought_again_where_it_is_taken_away() -> None:
    part, needed = Part("engines", H100, 2, 4, 60.0), Needed(replace(ASKS, curve=[(10.0, 1.0)]), 10.0, 1.0)
    assert costs(part, needed, priced(3, 2, 1), term="spot", spot_extra=0.25) == pytest.approx(8 * 1.25)


def test_pools_of_different_gpus_are_priced_each_by_its_own() -> None:
    parts = [Part("prefill", GPUS["h200_sxm"], 1, 8, 60.0), Part("decode", H100, 2, 4, 60.0)]
    needed = Needed(replace(ASKS, curve=[(10.0, 1.0)]), 10.0, 1.0)
    prices = Prices((PriceList(quotes=[
        Quotes(provider="us", date="2026", source="us", on_demand={"h100_sxm": 2.0, "h200_sxm": 3.0})
    ]),))  # fmt: skip
    made = bought(parts, needed, Buying(), prices)
    assert made is not None and [line.usd_per_hour for line in made.lines] == [24.0, 16.0]
    assert bought(parts, needed, Buying(term="spot"), prices) is None, "a bill with a gap is none"
    assert all(term not in BURSTS for term in ALL_DAY)


# --- bills


@given(st.floats(0.1, 1000), st.floats(0, 1), st.floats(0.1, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_bill_adds_up(usd_h: float, share: float, served: float, hits: float, cached: float) -> None:
    made = bill(usd_h, ASKS, served, share, hits, cached)
    into, out = (
        ASKS.rate_mean * served * 3600 / 1e6 * mean for mean in (ASKS.demand.prompt_mean, ASKS.demand.output_mean)
    )
    found = into * min(hits, 1 - 1 / ASKS.demand.prompt_mean)
    parts = made.usd_per_m_input * (into - found) + made.usd_per_m_cached * found + made.usd_per_m_output * out
    assert parts == pytest.approx(usd_h)
    assert made.usd_per_m * (into + out) == pytest.approx(usd_h)


@given(st.floats(0, 1), st.floats(0, 100), st.lists(st.integers(1, 100_000), min_size=1, max_size=5))
def test_what_was_cached_costs_a_part_of_the_prompts(hits: float, q_ps: float, prompts: list[int]) -> None:
    times = StepTime(a_us=5000, b_us=50, c_ns=40, p_us=20, q_ps=q_ps)
    assert 0 <= cached_share(times, prompts, hits) <= 1
    assert cached_share(times, prompts, 0.0) == 0


def test_a_search_by_another_way_of_buying_costs_less_and_says_what_it_is_made_of() -> None:
    asks = replace(ASKS, curve=[(0.0, 0.5), (10.0, 0.25), (40.0, 0.25)])
    plain, scaled = (
        expected_of(search(replace(QUESTION, asks=asks, buying=Buying(follows=follows))).plans[0])
        for follows in (None, 0)
    )
    assert scaled.usd_per_hour < plain.usd_per_hour
    for found in (plain, scaled):
        assert sum(line.usd_per_hour for line in found.cost) == pytest.approx(found.usd_per_hour)
    assert plain.cold_share == 0 < scaled.cold_share and scaled.start_s > 60


def test_a_start_that_too_many_wait_for_breaks_the_objective_of_the_first_token() -> None:
    rare = replace(ASKS, curve=[(1e-4, 1.0)], rate=1e-4, rate_mean=1e-4)
    stays, goes = (
        expected_of(search(replace(QUESTION, asks=rare, buying=Buying(follows=follows))).plans[0]) for follows in (1, 0)
    )
    assert keeps(QUESTION.objective, stays) and not keeps(QUESTION.objective, goes)
    assert any("find nothing that runs" in note for note in goes.notes)
    assert goes.usd_per_hour < stays.usd_per_hour
