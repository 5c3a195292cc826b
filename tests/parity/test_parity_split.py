"""One day through a deployed fleet of prefill and decode engines and through a simulated one: nothing may differ.

Prompts are computed at one engine and answered at another: steps, answers with parameters, claims, transfers that wait for
each other, blocks that are kept for who fetches them, and requests that wait for either end.
"""

from collections import Counter
from functools import cache

import pytest

from pilothouse.core.events import Failed, FirstToken, PrefillDone
from rig.virtual.clients import Ask, asks
from tests.parity.parity import NETWORK_US, SCRAPES, Day, decisions, engines, history, lived, simulated, split_config


@cache
def busy(seed: int) -> list[Ask]:
    """More than three small engines can do at once."""
    return asks(engines(), 80, seed, seconds=0.8)


@cache
def live(decider: str, prefill: int, seed: int) -> Day:
    return lived(split_config(decider, prefill, signals=SCRAPES, seed=seed), busy(seed))


@pytest.mark.parametrize(("decider", "prefill", "seed"), [("pays", 2, 11), ("always", 1, 12), ("threshold", 1, 12)])
def test_the_simulated_decision_is_the_deployed_decision(decider: str, prefill: int, seed: int) -> None:
    lived_ = live(decider, prefill, seed)
    sim = simulated(split_config(decider, prefill, signals=SCRAPES, seed=seed), busy(seed), lived_.scrape_us)
    assert decisions(sim) == decisions(lived_)
    assert sim.got == lived_.got
    assert history(sim) == history(lived_)


def test_workers_split_too() -> None:
    """They share one dispatcher, and tell it of finished prefills over a socket."""
    day = lived(split_config("always", 1, signals=SCRAPES, seed=12, workers=2), busy(12))
    assert sum(got.whole for got in day.got.values()) == sum(r.prefill is not None for _, r in decisions(day)) == 80
    assert not any(isinstance(event, Failed) for event, _ in day.pairs)


def test_such_a_day_has_both_kinds_and_full_engines() -> None:
    day = live("pays", 2, 11)
    routes, events = [route for _, route in decisions(day)], [event for event, _ in day.pairs]
    steps = Counter(route.prefill.endpoint for route in routes if route.prefill)
    assert 20 < steps.total() < len(routes) - 10 and len(steps) == 2
    assert sum("waited" in route.why.note for route in routes) > 5
    assert Counter(type(event).__name__ for event in events)["BlocksRemoved"] > 20
    done = {event.request: event.at_us for event in events if isinstance(event, PrefillDone)}
    token_us = engines().settings.kv_bytes / (engines().settings.wanted.transfer_gb_per_s * 1e3)
    handed_us = [e.at_us - done[e.request] for e in events if isinstance(e, FirstToken) and e.request in done]
    assert len(handed_us) == steps.total() and min(handed_us) > 2 * NETWORK_US + token_us


@pytest.mark.parametrize("change", [{"network_us": NETWORK_US + 1}, {"gb_per_s": 49.99}])
def test_another_way_differs(change: dict[str, float]) -> None:
    """The controls: a microsecond more between gateway and engines is seen, and so is a network a little slower."""
    lived_, made_with = live("always", 1, 12), split_config("always", 1, signals=SCRAPES, seed=12)
    sim = simulated(made_with, busy(12), lived_.scrape_us, **change)  # type: ignore[arg-type]
    assert decisions(sim) != decisions(lived_) and sim.got.keys() == lived_.got.keys()
    assert decisions(simulated(made_with, busy(12), lived_.scrape_us)) == decisions(lived_)
